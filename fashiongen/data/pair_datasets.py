"""Datasets of tops and bottoms: pairs to train on, tops to rank for, and the catalogue of bottoms. Sizes are (height, width)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import Dataset

from fashiongen.batches import Batch, CandidateBatch, PairBatch, QueryBatch
from fashiongen.data.images import Size, read_image
from fashiongen.data.loading import collate
from fashiongen.data.pair_lists import PairRow, positives_of
from fashiongen.errors import UserError

OnError = Literal["fail", "skip"]


class ItemImages(Dataset[Any]):
    """Reads the images of rows, and the wardrobe's true attributes if known."""

    def __init__(self, images: dict[str, Path] | None, truth: dict[str, dict[str, str]] | None, size: Size, in_memory: bool) -> None:
        """Read from `images` by id (None: only the lists) at `size`; `in_memory` caches decoded images."""
        self.images = images
        self.truth = truth
        self.size = size
        self._decoded: dict[str, Tensor] | None = {} if in_memory else None

    def image(self, id_: str) -> Tensor | None:
        """Read an item's image, (1, 3, H, W) uint8."""
        if self.images is None:
            return None
        if self._decoded is not None and id_ in self._decoded:
            return self._decoded[id_]
        image = read_image(self.images[id_], self.size)[None]
        if self._decoded is not None:
            self._decoded[id_] = image
        return image

    def attributes(self, id_: str) -> list[dict[str, str]] | None:
        """Return an item's true attributes in the wardrobe; None for real data."""
        return None if self.truth is None else [self.truth[id_]]


class PairDataset(ItemImages):
    """Training rows as `PairBatch` of one; with `on_error="skip"` a row with a damaged image returns the reason instead."""

    def __init__(self, rows: Sequence[PairRow], on_error: OnError, **items: Any) -> None:  # noqa: ANN401  see ItemImages
        """Read `rows`."""
        super().__init__(**items)
        self.rows = rows
        self.on_error = on_error
        self.positives = positives_of(rows)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> PairBatch | str:
        """Read one row; if it cannot be read and may be skipped, return the reason."""
        row = self.rows[index]
        try:
            top, bottom = self.image(row.top), self.image(row.bottom)
        except UserError as error:
            if self.on_error == "skip":
                return str(error)
            raise
        return PairBatch(
            ids=[row.id], top_ids=[row.top], bottom_ids=[row.bottom], positives=[self.positives[row.top]], top=top, bottom=bottom
        )


class QueryDataset(ItemImages):
    """Evaluation rows as `QueryBatch` of one."""

    def __init__(self, rows: Sequence[PairRow], **items: Any) -> None:  # noqa: ANN401  see ItemImages
        """Read `rows`."""
        super().__init__(**items)
        self.rows = rows
        self.positives = positives_of(rows)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> QueryBatch:
        """Read one row."""
        row = self.rows[index]
        return QueryBatch(
            ids=[row.id],
            top_ids=[row.top],
            top=self.image(row.top),
            attributes=self.attributes(row.top),
            positive=[row.bottom],
            negatives=[row.negatives],
            others=[tuple(bottom for bottom in self.positives[row.top] if bottom != row.bottom)],
        )


class CatalogueDataset(ItemImages):
    """The distinct bottoms of a split as `CandidateBatch` of one.

    Attributes:
        ids: first the positives in the order of the list, then the bottoms listed only as negatives.
        n_positives: how many of them are positives of some top.
    """

    def __init__(self, rows: Sequence[PairRow], **items: Any) -> None:  # noqa: ANN401  see ItemImages
        """Collect the bottoms of `rows`."""
        super().__init__(**items)
        positives = dict.fromkeys(row.bottom for row in rows)
        self.n_positives = len(positives)
        self.ids = list(dict.fromkeys([*positives, *(negative for row in rows for negative in row.negatives)]))

    def __len__(self) -> int:
        """Return the number of bottoms."""
        return len(self.ids)

    def __getitem__(self, index: int) -> CandidateBatch:
        """Read one bottom."""
        id_ = self.ids[index]
        return CandidateBatch(ids=[id_], bottom=self.image(id_), attributes=self.attributes(id_))


def collate_readable(samples: Sequence[Batch | str]) -> Batch:
    """Collate the readable samples; `skipped` holds the reasons for the others."""
    reasons = [sample for sample in samples if isinstance(sample, str)]
    readable = [sample for sample in samples if not isinstance(sample, str)]
    if not readable:
        raise UserError(f"cannot read any of the {len(samples)} samples of a batch; first error: {reasons[0]}")
    return replace(collate(readable), skipped=reasons) if reasons else collate(readable)
