"""The handler of a task: all that is particular to a task stands in one subclass of `Task`.

What runs, judges, shows and compares methods (`Trainer`, `Evaluate`, `WritePredictions`, the leaderboard) asks the handler.
"""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import lightning.pytorch as L
import torch
from torch import Tensor
from torchmetrics import Metric

from fashiongen.batches import Batch, Ragged
from fashiongen.errors import UserError


class Data(typing.Protocol):
    """What a task asks of a DataModule.

    Attributes:
        name: the dataset's name in records.
        split: the split that is tested.
        offers: the parts that every sample has.
        size: height and width of images; None where there are none.
    """

    name: str
    split: str
    offers: frozenset[str]
    size: tuple[int, int] | None

    def fingerprint(self) -> str:
        """Return a hash of the tested data."""


class ReferenceSet(typing.Protocol):
    """True images of another dataset, with which metrics of sets compare.

    Attributes:
        split: of that dataset.
        field: which image of a sample.
    """

    split: Any
    field: Any

    @property
    def source(self) -> Data:
        """The DataModule that holds them."""

    def setup(self) -> None:
        """Find the files; UserError where there are none."""

    def fingerprint(self) -> str:
        """Return a hash of the images."""

    def batches(self, trainer: L.Trainer, device: torch.device) -> Iterator[Tensor]:
        """Yield this process's share of them, (B, 3, H, W) in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a test is judged by.

    Attributes:
        name: the protocol's name.
        metrics: by name.
        size: height and width at which images are judged; None: the data's own.
        reference: the true images for metrics of sets, where they are another dataset's.
    """

    name: str
    metrics: dict[str, Metric]
    size: tuple[int, int] | None = None
    reference: ReferenceSet | None = None


@dataclass(frozen=True, kw_only=True)
class GalleryRow:
    """One sample for the eye.

    Attributes:
        id: the sample's id.
        images: uint8 (3, H, W) on the CPU by heading, in the order in which they are shown.
    """

    id: str
    images: dict[str, Tensor]


class Task(ABC):
    """A task and how it is judged. A subclass with a `name` is known once its module is imported; an instance serves one test.

    Attributes:
        name: what recipes, records and tables call it.
        batch: the exact type of batch that selects it.
        interface: the Protocol class that a method follows.
        method: the name of the method (of the class) that takes the batch.
        prediction: the heading of the method's own image in a gallery row.
        gallery: the headings of a gallery row that the leaderboard shows beside all methods: the input, the truth.
    """

    name: ClassVar[str] = ""
    batch: ClassVar[type[Batch]]
    interface: ClassVar[type]
    method: ClassVar[str]
    prediction: ClassVar[str] = "prediction"
    gallery: ClassVar[tuple[str, ...]] = ()

    subclasses: ClassVar[dict[str, type[Task]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401  Python's own signature
        """Make a task with a name known."""
        super().__init_subclass__(**options)
        if cls.name:
            Task.subclasses[cls.name] = cls

    @classmethod
    def spoil_truth(cls, batch: Batch) -> Batch:
        """Return the batch with all that is truth made useless: what a method makes of it must stay the same.

        By default these are the targets. A task whose input holds truth, such as the person inside the mask of a try-on, adds that.
        """
        return replace(batch, **{name: _spoiled(getattr(batch, name)) for name in batch.TARGETS})

    @abstractmethod
    def check_data(self, data: Data, protocol: Protocol) -> None:
        """Refuse, before any work, data that the protocol cannot judge.

        Raises:
            UserError: saying what is missing and what to do.
        """

    def start(self, trainer: L.Trainer, module: L.LightningModule, protocol: Protocol) -> None:  # noqa: B027  most tasks prepare nothing
        """Prepare a test; the method is on its device, the metrics are empty."""

    @abstractmethod
    def check_prediction(self, method: object, prediction: object, batch: Batch) -> Any:  # noqa: ANN401  what a task returns is its own
        """Return what a method returned, in float32, if it is what the task asks for.

        Raises:
            TypeError: if it is not.
        """

    @abstractmethod
    def update(self, method: L.LightningModule, prediction: Any, batch: Batch, protocol: Protocol) -> int:  # noqa: ANN401
        """Update the protocol's metrics with a checked prediction; return how many samples of it are not finite."""

    def gallery_rows(self, prediction: Any, batch: Batch, indices: Sequence[int]) -> list[GalleryRow]:  # noqa: ANN401
        """Return the samples at `indices` for the eye; by default there is nothing to see."""
        return []

    def images(self, prediction: Any, batch: Batch) -> list[tuple[str, Tensor]]:  # noqa: ANN401
        """Return what `predict` writes: a name without ending and an image (3, H, W) in [-1, 1] each.

        Raises:
            UserError: if the task makes no images.
        """
        raise UserError(f"predict writes images, and the task {self.name} makes none")

    def captions(self, prediction: Any, batch: Batch) -> list[dict[str, Any]] | None:  # noqa: ANN401
        """Return what `predict` writes as lines of captions.jsonl; None for a task without texts."""
        return None

    @abstractmethod
    def reference_info(self, data: Data, protocol: Protocol) -> dict[str, str]:
        """Return for the record what the predictions were held against: dataset, split, field, fingerprint and more."""

    def conditions(self, data: Data, protocol: Protocol) -> dict[str, str]:
        """Return what two results of this task must share to be compared, beside data, masks, reference and protocol."""
        return {}


def size_text(data: Data) -> str:
    """Return the size of a DataModule's images as in records, such as 512x384; empty where there are none."""
    size = getattr(data, "size", None)
    return "" if size is None else f"{size[0]}x{size[1]}"


def _spoiled(value: Any) -> Any:  # noqa: ANN401  any field's value
    if isinstance(value, Tensor):
        return torch.full_like(value, torch.nan, dtype=torch.float32)
    if isinstance(value, Ragged):
        return Ragged(_spoiled(value.values), value.offsets)
    if isinstance(value, dict):
        return {key: _spoiled(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [type(entry)(("spoiled",)) if isinstance(entry, tuple | list) else "spoiled" for entry in value]
    return value
