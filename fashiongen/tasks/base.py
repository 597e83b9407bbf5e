"""The base class of task handlers: everything task-specific is in one subclass of `Task`.

The code that runs, evaluates, shows and compares methods (`Trainer`, `Evaluate`, `WritePredictions`, the leaderboard) calls the handler.
"""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import lightning.pytorch as L
import torch
from torch import Tensor
from torchmetrics import Metric

from fashiongen.batches import Batch, Ragged
from fashiongen.errors import UserError

Resize = Literal["stretch", "cover"]
"""How images of another size are resized. `stretch`: antialiased bilinear. `cover`: the same, but keeping the aspect ratio, until the image
covers the size; then a center crop."""

Filter = Literal["bilinear", "lanczos"]
"""How images are resized when they are read: Pillow's antialiased filter."""

Repaint = Literal["hard", "soft"]
"""How a prediction is pasted into the photo before it is compared. `hard`: the prediction inside the mask, the photo outside. `soft`: the
same, but outside the mask the prediction fades into the photo, by a Gaussian whose sigma is a fiftieth of the image's height in pixels."""


class Data(typing.Protocol):
    """What a task requires of a DataModule.

    Attributes:
        name: the dataset's name in records.
        split: the split that is tested.
        offers: the parts that every sample has.
        size: height and width of images; None without images.
    """

    name: str
    split: str
    offers: frozenset[str]
    size: tuple[int, int] | None

    def fingerprint(self) -> str:
        """Return a hash of the tested data."""


class ReferenceSet(typing.Protocol):
    """True images that set metrics compare with: of another dataset, or of the tested one.

    Attributes:
        split: the split of that dataset.
        field: which image of a sample.
        size: height and width at which they are read; None for the dataset's own.
    """

    split: Any
    field: Any
    size: Any

    @property
    def own(self) -> bool:
        """Whether they are the tested dataset's: its samples may then have a truth of their own too."""

    @property
    def source(self) -> Data:
        """The DataModule that holds them; for the tested dataset's own images available after `setup`."""

    def setup(self, data: Data) -> None:
        """Find the files, for a test of `data`; raises UserError if there are none."""

    def fingerprint(self) -> str:
        """Return a hash of the images."""

    def groups(self, trainer: L.Trainer, by: str) -> list[str]:
        """Return the group of each image of this process's share, in order; raises UserError if they are unknown."""

    def batches(self, trainer: L.Trainer, device: torch.device) -> Iterator[Tensor]:
        """Yield this process's share of them, (B, 3, H, W) in [0, 1]."""


class PredictionFiles(typing.Protocol):
    """Predictions that were written to files, by this package or by any other code."""

    def images(self, names: Sequence[str]) -> Tensor:
        """Return images by name, uint8 (B, 3, H, W) on the CPU, all of the size at which the protocol compares."""

    def not_finite(self, names: Sequence[str]) -> Tensor:
        """Return which of these images were not finite before they were written, (B,) bool."""

    def rows(self, name: str, ids: Sequence[str]) -> Tensor:
        """Return the rows of some samples in a table of `Task.kept_rows`, (B, ...) on the CPU."""

    def labels(self, name: str) -> list[str]:
        """Return a list of `Task.kept_labels`."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a test is evaluated.

    Attributes:
        name: the protocol's name.
        metrics: the metrics by name.
        size: height and width at which images are compared; None for the data's own.
        resize: how images of another size, made by other code, are brought to that size; None refuses them.
        filter: how images are resized when they are read, which the data must state alike; None for any.
        repaint: how predictions are pasted into the photo before they are compared; None compares them as they are.
        reference: the reference images for set metrics, if they are not the truth of each sample.
        unpaired: the names of the metrics of an unpaired test; None for all.
        by: the batch's field, such as category, for whose values the metrics are computed too; None for no groups.
        draws: how often a method generates each result, for tasks that judge several; None for the method's own setting.
    """

    name: str
    metrics: dict[str, Metric]
    size: tuple[int, int] | None = None
    resize: Resize | None = None
    filter: Filter | None = None
    repaint: Repaint | None = None
    reference: ReferenceSet | None = None
    unpaired: Sequence[str] | None = None
    by: str | None = None
    draws: int | None = None


@dataclass(frozen=True, kw_only=True)
class GalleryRow:
    """The images of one sample to show.

    Attributes:
        id: the sample's id.
        images: uint8 images (3, H, W) on the CPU by heading, in display order.
    """

    id: str
    images: dict[str, Tensor]


class Task(ABC):
    """A task and its evaluation. A subclass with a `name` is registered when its module is imported; an instance serves one test.

    Attributes:
        name: its name in recipes, records and tables.
        batch: the exact batch type that selects it.
        interface: the typing.Protocol that a method implements.
        method: the name of the class's method that takes the batch.
        prediction: the heading of the prediction in a gallery row.
        gallery: the headings of a gallery row that all methods share, such as the input and the truth; the leaderboard shows them once.
        shares: what samples may share, for readers, such as garment or user (see `shared_keys`).
        kept_as: whether predictions are kept as image files, or as rows of tables, such as rankings.
        several_draws: whether a method may generate several results for a sample (`evaluate.draws`).
    """

    name: ClassVar[str] = ""
    batch: ClassVar[type[Batch]]
    interface: ClassVar[type]
    method: ClassVar[str]
    prediction: ClassVar[str] = "prediction"
    gallery: ClassVar[tuple[str, ...]] = ()
    shares: ClassVar[str] = "id"
    kept_as: ClassVar[Literal["images", "rows"]] = "images"
    several_draws: ClassVar[bool] = False

    subclasses: ClassVar[dict[str, type[Task]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401  Python's own signature
        """Register the task if it has a name."""
        super().__init_subclass__(**options)
        if cls.name:
            Task.subclasses[cls.name] = cls

    @classmethod
    def spoil_truth(cls, batch: Batch) -> Batch:
        """Return the batch with all ground truth made useless; a method's result must not change.

        By default these are the targets. A task whose input contains ground truth, such as the person inside the mask of a try-on, adds it.
        """
        return replace(batch, **{name: _spoiled(getattr(batch, name)) for name in batch.TARGETS})

    def applied(self, data: Data, protocol: Protocol) -> Protocol:
        """Return the protocol as it applies to the data, such as with the metrics of an unpaired test alone.

        Raises:
            UserError: if it groups by a field that the task's batches lack, or states what the task does not have: metrics of an unpaired
                test, or a number of draws.
        """
        if protocol.draws is not None and protocol.draws < 1:
            raise UserError(f"evaluate.draws: {protocol.draws}: must be at least 1")
        if protocol.draws is not None and not self.several_draws:
            raise UserError(f"evaluate.draws: a {self.name} has one result per sample: leave it out")
        if protocol.unpaired is not None:
            raise UserError(f"evaluate.unpaired: a {self.name} has no unpaired test: leave it out")
        names = [entry.name for entry in fields(self.batch) if str(entry.type) == "list[str]" and entry.name != "ids"]
        if protocol.by is not None and protocol.by not in names:
            raise UserError(f"evaluate.by={protocol.by}: samples of {self.name} can be grouped by {', '.join(names) or 'nothing'}")
        return protocol

    def groups(self, batch: Batch, protocol: Protocol) -> list[str]:
        """Return the group of each sample, B; empty if the protocol has no groups."""
        return [] if protocol.by is None else list(getattr(batch, protocol.by))

    @abstractmethod
    def check_data(self, data: Data, protocol: Protocol) -> None:
        """Check before any work that the protocol can evaluate the data.

        Raises:
            UserError: if not, with what is missing and how to fix it.
        """

    def start(self, trainer: L.Trainer, module: L.LightningModule, protocol: Protocol) -> None:  # noqa: B027  most tasks prepare nothing
        """Prepare a test; the method is on its device, the metrics are reset."""

    @abstractmethod
    def check_prediction(self, method: object, prediction: object, batch: Batch) -> Any:  # noqa: ANN401  what a task returns is its own
        """Return a method's result in float32, if it is valid for the task.

        Raises:
            TypeError: if it is not.
        """

    @abstractmethod
    def update(self, method: L.LightningModule, prediction: Any, batch: Batch, protocol: Protocol) -> int:  # noqa: ANN401
        """Update the protocol's metrics with a checked prediction; return the number of non-finite samples."""

    def shared_keys(self, batch: Batch) -> list[tuple[str, ...]]:
        """Return the keys of what each sample shares with others, B tuples, from a batch with its targets; by default the id alone.

        Samples with the same input or truth have similar values. Those with a key in common are one cluster. Intervals and tests count
        clusters, not samples, as independent.
        """
        return [(id_,) for id_ in batch.ids]

    def gallery_rows(self, prediction: Any, batch: Batch, indices: Sequence[int]) -> list[GalleryRow]:  # noqa: ANN401
        """Return the gallery rows of the samples at `indices`; none by default."""
        return []

    def images(self, prediction: Any, batch: Batch) -> list[tuple[str, Tensor]]:  # noqa: ANN401
        """Return the images that `predict` writes: each a name without suffix and an image (3, H, W) in [-1, 1].

        Raises:
            UserError: if the task generates no images.
        """
        raise UserError(f"predict writes images, but the task {self.name} produces none")

    def sheets(self, prediction: Any, batch: Batch) -> list[tuple[str, Tensor]]:  # noqa: ANN401
        """Return further images that `predict` writes to look at, such as whole outfits, in the same form; none by default."""
        return []

    def file_size(self, size: tuple[int, int], data: Data, protocol: Protocol) -> tuple[int, int] | None:
        """Return the size of the files to be judged, given the size of the data's images; None if the task checks it itself."""
        return size

    def captions(self, prediction: Any, batch: Batch) -> list[dict[str, Any]] | None:  # noqa: ANN401
        """Return the lines that `predict` writes to captions.jsonl; None for a task without captions."""
        return None

    def kept_rows(self, prediction: Any, batch: Batch) -> dict[str, Tensor]:  # noqa: ANN401
        """Return what is kept of a batch by a task that keeps rows, after `update`: integers (B, ...) by the table's name."""
        return {}

    def kept_labels(self) -> dict[str, list[str]]:
        """Return lists of names that explain the kept rows, such as those of the columns."""
        return {}

    def read_prediction(self, files: PredictionFiles, batch: Batch) -> Any:  # noqa: ANN401
        """Return the prediction for a batch as read from files; metrics of kept files equal those of the test that kept them.

        Raises:
            UserError: if the task cannot be judged from files, or the files do not fit the data.
        """
        raise UserError(f"the task {self.name} cannot be judged from files")

    def start_judging(self, trainer: L.Trainer, module: L.LightningModule, protocol: Protocol, files: PredictionFiles) -> None:
        """Prepare a test whose predictions are read from files, like `start`.

        Raises:
            UserError: if the files do not fit the data.
        """
        self.start(trainer, module, protocol)

    def distances_to_inputs(self, prediction: Any, batch: Batch) -> dict[str, Tensor]:  # noqa: ANN401
        """Return how far each prediction is from the images that it may be a mere copy of.

        Returns:
            By name, such as `the input`: the mean absolute difference in grey levels, (B,).
        """
        return {}

    def doubts(self, protocol: Protocol) -> list[str]:
        """Return why a protocol may not measure what it seems to, one line each."""
        return []

    @abstractmethod
    def reference_info(self, data: Data, protocol: Protocol) -> dict[str, str]:
        """Return what the predictions were compared with, for the record: dataset, split, field, fingerprint and more."""

    def conditions(self, data: Data, protocol: Protocol) -> dict[str, str]:
        """Return what comparable results of this task must share, besides data, masks, reference and protocol."""
        return {}


def size_text(data: Data) -> str:
    """Return the size of a DataModule's images as in records, such as 512x384; empty without images."""
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
