"""Tasks: a task is a verb that a method may have, with the batch type that the verb takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from fashiongen.batches import Batch, CandidateBatch, QueryBatch, TryOffBatch


@runtime_checkable
class TakesOff(Protocol):
    """Virtual try-off."""

    def take_off(self, batch: TryOffBatch) -> Tensor:
        """Restore the garments that the people wear: (B, 3, H, W) in [-1, 1], in the order of `batch.ids`."""


@runtime_checkable
class RanksBottoms(Protocol):
    """Top-bottom retrieval: each top and each bottom is embedded once, then all pairs are scored in blocks.

    Attributes:
        inner_product: whether `score` is the matrix product of the embeddings, so that an index of nearest neighbours may serve it.
    """

    inner_product: ClassVar[bool]

    def embed_query(self, batch: QueryBatch) -> Tensor:
        """Embed tops: (B, D), in the order of `batch.ids`."""

    def embed_candidate(self, batch: CandidateBatch) -> Tensor:
        """Embed bottoms: (C, E), in the order of `batch.ids`."""

    def score(self, query: Tensor, candidate: Tensor) -> Tensor:
        """Score all pairs of embeddings (B, D) and (C, E): (B, C), higher is better."""


@dataclass(frozen=True)
class Task:
    """A task: its name, the exact batch type that selects it and the ability that it asks of a method."""

    name: str
    batch: type[Batch]
    ability: type
    verb: str


TASKS = {
    task.name: task
    for task in [Task("vtoff", TryOffBatch, TakesOff, "take_off"), Task("retrieval", QueryBatch, RanksBottoms, "embed_query")]
}


def supported(method: type | object) -> list[str]:
    """Return the names of the tasks that a method, class or instance, has the verb for."""
    return [task.name for task in TASKS.values() if callable(getattr(method, task.verb, None))]


def run(method: object, batch: Batch) -> Any:  # noqa: ANN401  what a verb returns depends on the task
    """Hand `batch`, without its targets, to the verb that its exact type selects, and return what the verb returns."""
    for task in TASKS.values():
        if type(batch) is task.batch:
            verb: Callable[[Batch], Any] | None = getattr(method, task.verb, None)
            if verb is None:
                raise TypeError(f"{type(method).__name__} cannot do the task {task.name!r}: it has no {task.verb}()")
            return verb(batch.without_target())
    raise TypeError(f"no task takes a {type(batch).__name__}; known: {', '.join(task.batch.__name__ for task in TASKS.values())}")
