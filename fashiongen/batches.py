"""Typed batches: a method's inputs, and the targets it is evaluated with.

A sample is a batch of one, so a Dataset returns the same type that a method receives, and collating is concatenation.
Images stay uint8 until they are on the device. The classes are neither frozen (Lightning's device transfer refuses that)
nor dictionaries (a misspelt field must fail).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """Map uint8 images in [0, 255] to floats in [-1, 1], same shape; floats pass unchanged."""
    return images if images.is_floating_point() else images.float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Map float images in [-1, 1] (clipped) to the nearest uint8 in [0, 255], same shape."""
    return images.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)


@dataclass
class Ragged:
    """B rows of different lengths, stored flat: row i is `values[offsets[i]:offsets[i + 1]]`.

    Ragged can be nested: a user's history per category is user -> category -> items.

    Attributes:
        values: the T entries of all rows, concatenated: a tensor (T, ...), a list of T, or a Ragged of T rows.
        offsets: (B + 1,) int64, non-decreasing from 0 to T.
    """

    values: Any
    offsets: Tensor

    @classmethod
    def of(cls, rows: Sequence[Any]) -> Self:
        """Join rows: tensors (N_i, ...), lists of N_i entries, or Ragged of N_i rows, all of the same kind."""
        values = _join_rows(rows)
        device = _device_of(values)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64, device=device)
        return cls(values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))

    def __len__(self) -> int:
        """Return the number of rows, B."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401  a part of `values`, of its kind
        """Return one row."""
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"row {index} of {count}")
        index %= count
        return _pick(self.values, range(int(self.offsets[index]), int(self.offsets[index + 1])))

    @property
    def lengths(self) -> Tensor:
        """The rows' lengths, (B,) int64."""
        return self.offsets.diff()

    @property
    def row_of(self) -> Tensor:
        """The row that each entry belongs to, (T,) int64, so that a sum per row is one `index_add_` without a loop."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.lengths)

    def select(self, indices: Sequence[int]) -> Self:
        """Return the rows at `indices`, in that order; negative ones count from the end."""
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.offsets.device)
        chosen = torch.where(chosen < 0, chosen + len(self), chosen)
        if ((chosen < 0) | (chosen >= len(self))).any():
            raise IndexError(f"rows {list(indices)} of {len(self)}")
        lengths = self.lengths[chosen]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        # A row's entries are consecutive: shift a running index by the row's displacement.
        entries = torch.arange(int(offsets[-1]), device=offsets.device) + (self.offsets[chosen] - offsets[:-1]).repeat_interleave(lengths)
        return type(self)(_pick(self.values, entries.tolist()), offsets)

    @classmethod
    def concatenate(cls, parts: Sequence[Ragged]) -> Self:
        """Concatenate the rows of several Ragged, in order."""
        values = _join_rows([part.values for part in parts])
        lengths = torch.cat([part.lengths for part in parts])
        return cls(values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))


@dataclass(kw_only=True)
class Batch:
    """Base of all batches: `B` samples, each with an id that is unique in its dataset.

    A field is a tensor (B, ...), a list of B, a `Ragged` of B rows, a dictionary of such, or None. The samples of a batch have the same
    fields and the same keys: what a sample lacks of a Ragged is an empty row.

    Attributes:
        ids: the samples' ids.
        encoded: cached outputs of the method's frozen encoders, (B, ...) floats by kind (see `fashiongen.data.encoding_cache`). They can
            include the target's, so they are removed for evaluation.
        skipped: messages about samples excluded from a training batch because their files are damaged, if the data may skip them.
    """

    TARGETS: ClassVar[tuple[str, ...]] = ()

    ids: list[str]
    encoded: dict[str, Tensor] | None = None
    skipped: list[str] | None = None

    def __len__(self) -> int:
        """Return the number of samples, B."""
        return len(self.ids)

    @classmethod
    def collate(cls, samples: Sequence[Self]) -> Self:
        """Concatenate batches along the first dimension; a field that is None must be None in all of them."""
        if len({type(sample) for sample in samples}) != 1:
            raise TypeError(f"cannot collate {sorted({type(sample).__name__ for sample in samples})} into one batch")
        joined: dict[str, Any] = {
            field.name: _concatenate(field.name, [getattr(sample, field.name) for sample in samples]) for field in fields(cls)
        }
        return type(samples[0])(**joined)

    def select(self, indices: Sequence[int]) -> Self:
        """Return the batch of the samples at `indices`, in that order."""
        names = [field.name for field in fields(self) if field.name != "skipped"]
        return replace(self, **{name: _pick(getattr(self, name), indices) for name in names})

    def pin_memory(self) -> Self:
        """Return the batch with its tensors in page-locked memory (called by the DataLoader)."""

        def pin(value: Any) -> Any:  # noqa: ANN401  any field's value
            if isinstance(value, dict):
                return {key: pin(entry) for key, entry in value.items()}
            if isinstance(value, Ragged):
                return Ragged(pin(value.values), pin(value.offsets))
            return value.pin_memory() if isinstance(value, Tensor) else value

        return replace(self, **{field.name: pin(getattr(self, field.name)) for field in fields(self)})

    def without_target(self) -> Self:
        """Return the batch for evaluation: all targets and cached encodings are None."""
        hidden: dict[str, Any] = dict.fromkeys(self.TARGETS)
        return replace(self, encoded=None, **hidden)


def _pick(value: Any, indices: Sequence[int]) -> Any:  # noqa: ANN401  any field's value
    """Return the entries at `indices` of a tensor, a list, a Ragged, or a dictionary of such."""
    if isinstance(value, Tensor):
        return value[torch.as_tensor(indices, dtype=torch.int64, device=value.device)]
    if isinstance(value, Ragged):
        return value.select(indices)
    if isinstance(value, dict):
        return {key: _pick(entry, indices) for key, entry in value.items()}
    return None if value is None else [value[index] for index in indices]


def _join_rows(rows: Sequence[Any]) -> Any:  # noqa: ANN401  of the kind of the rows
    """Join rows of one kind; an empty list is an empty row of any kind.

    Raises:
        TypeError: if tensors differ in type: joined, ids would become floats where one row is `torch.tensor([])`.
    """
    filled = [row for row in rows if len(row) or not isinstance(row, list)]
    if len(types := {row.dtype for row in filled if isinstance(row, Tensor)}) > 1:
        raise TypeError(f"cannot join rows of {' and '.join(sorted(map(str, types)))}: give all the same type, empty ones too")
    return _concatenate("rows", filled) if filled else []


def _device_of(values: Any) -> torch.device | None:  # noqa: ANN401  the values of a Ragged
    """Return the device of tensors, at any depth; None for lists."""
    if isinstance(values, Ragged):
        return values.offsets.device
    return values.device if isinstance(values, Tensor) else None


def _concatenate(name: str, values: list[object]) -> object:
    if all(isinstance(value, Tensor) for value in values):
        return torch.cat([value for value in values if isinstance(value, Tensor)])
    if all(isinstance(value, Ragged) for value in values):
        return Ragged.concatenate([value for value in values if isinstance(value, Ragged)])
    if all(isinstance(value, list) for value in values):
        return [entry for value in values if isinstance(value, list) for entry in value]
    if all(isinstance(value, dict) for value in values):
        dictionaries = [value for value in values if isinstance(value, dict)]
        keys = list(dict.fromkeys(key for value in dictionaries for key in value))
        return {key: _concatenate(f"{name}[{key}]", [value.get(key) for value in dictionaries]) for key in keys}
    if all(value is None for value in values):
        return None
    raise ValueError(f"field {name!r} is present in some samples of the batch and absent in others")


@dataclass(kw_only=True)
class TryOffBatch(Batch):
    """Virtual try-off (task `vtoff`): from a dressed person to the garment's shop image.

    Attributes:
        person: (B, 3, H, W) uint8 RGB.
        mask: (B, 1, H, W) bool, True where the garment may be (the agnostic region of the try-on datasets, or a box).
        category: B of "upper", "lower", "full".
        parse: (B, H, W) uint8 human-parse labels in the dataset's palette, if offered.
        pose: (B, K, 3) float32 keypoints: x and y in pixels, confidence (0 if not visible), if offered.
        garment: target, (B, 3, H, W) uint8 RGB shop image on white.
        garment_mask: target, (B, 1, H, W) bool, True on the shop image's garment.
    """

    TARGETS: ClassVar[tuple[str, ...]] = ("garment", "garment_mask")

    person: Tensor
    mask: Tensor
    category: list[str]
    parse: Tensor | None = None
    pose: Tensor | None = None
    garment: Tensor | None = None
    garment_mask: Tensor | None = None


@dataclass(kw_only=True)
class TryOnBatch(Batch):
    """Virtual try-on (task `vton`): dress a person in the garment of a shop image.

    Attributes:
        agnostic: (B, 3, H, W) uint8 RGB, the photo of the person with mid-grey (128) where `mask` is True.
        mask: (B, 1, H, W) bool, True where the garment may be: what is to be repainted.
        garment: (B, 3, H, W) uint8 RGB, the shop image of the garment to put on.
        category: B of "upper", "lower", "full".
        garment_mask: (B, 1, H, W) bool, True on the shop image's garment, if offered.
        parse: (B, H, W) uint8 human-parse labels in the dataset's palette, 0 where `mask` is True, if offered.
        pose: (B, K, 3) float32 keypoints: x and y in pixels, confidence (0 if not visible), if offered.
        photo: (B, 3, H, W) uint8 RGB, the whole photo, on which the person wears something else than `garment`. Only an unpaired test
            offers it: in a paired one it is the target.
        person: target, (B, 3, H, W) uint8 RGB, the person wearing the garment. In a paired test this is the photo; in an unpaired one only
            the embedded world knows it.
    """

    TARGETS: ClassVar[tuple[str, ...]] = ("person",)

    agnostic: Tensor
    mask: Tensor
    garment: Tensor
    category: list[str]
    garment_mask: Tensor | None = None
    parse: Tensor | None = None
    pose: Tensor | None = None
    photo: Tensor | None = None
    person: Tensor | None = None


@dataclass(kw_only=True)
class PairBatch(Batch):
    """Tops with matching bottoms, for training methods of the task `retrieval`.

    Attributes:
        top_ids: B ids of tops.
        bottom_ids: B ids of bottoms.
        positives: for each row all bottoms that match its top in the same split, including its own.
        top: (B, 3, S, S) uint8 RGB; None if only the lists are read.
        bottom: likewise.
    """

    top_ids: list[str]
    bottom_ids: list[str]
    positives: list[tuple[str, ...]]
    top: Tensor | None = None
    bottom: Tensor | None = None


@dataclass(kw_only=True)
class QueryBatch(Batch):
    """Top-bottom retrieval (task `retrieval`): tops to rank a catalogue of bottoms for.

    Attributes:
        top_ids: B ids of tops; a top may occur in several rows.
        top: (B, 3, S, S) uint8 RGB; None if only the lists are read.
        attributes: the wardrobe's true attributes of the tops, only for its oracle.
        positive: target, the matching bottom of each top.
        negatives: target, for each row the bottoms listed as negatives, in order.
        others: target, for each row the other bottoms that match its top in the split.
    """

    TARGETS: ClassVar[tuple[str, ...]] = ("positive", "negatives", "others")

    top_ids: list[str]
    top: Tensor | None = None
    attributes: list[dict[str, str]] | None = None
    positive: list[str] | None = None
    negatives: list[tuple[str, ...]] | None = None
    others: list[tuple[str, ...]] | None = None


@dataclass(kw_only=True)
class CandidateBatch(Batch):
    """Bottoms of a catalogue; `ids` are their ids.

    Attributes:
        bottom: (B, 3, S, S) uint8 RGB; None if only the lists are read.
        attributes: the wardrobe's true attributes of the bottoms, only for its oracle.
    """

    bottom: Tensor | None = None
    attributes: list[dict[str, str]] | None = None


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The input of ranking metrics: `B` queries against a catalogue of `C` candidates.

    Attributes:
        scores: (B, C), higher is better.
        positive: (B,) int64, index of the positive candidate.
        negatives: (B, N) int64, indices of the query's listed negatives, in order; padded with -1.
        others: (B, C) bool, other positive candidates.
        n_positives: the first `n_positives` candidates are positives of some query in the test.
    """

    scores: Tensor
    positive: Tensor
    negatives: Tensor
    others: Tensor
    n_positives: int
