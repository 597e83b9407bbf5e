"""Tasks: a task is a verb that a method may have, with the batch type that the verb takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from fashiongen.batches import Batch, TryOffBatch


@runtime_checkable
class TakesOff(Protocol):
    """Virtual try-off."""

    def take_off(self, batch: TryOffBatch) -> Tensor:
        """Restore the garments that the people wear: (B, 3, H, W) in [-1, 1], in the order of `batch.ids`."""


@dataclass(frozen=True)
class Task:
    """A task: its name, the exact batch type that selects it and the ability that it asks of a method."""

    name: str
    batch: type[Batch]
    ability: type
    verb: str


TASKS = {task.name: task for task in [Task("vtoff", TryOffBatch, TakesOff, "take_off")]}


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
