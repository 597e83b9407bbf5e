"""Samples of a try-on dataset: each part is read by its name in the batch, so that one Dataset serves several tasks.

Sizes are (height, width) throughout.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fashiongen.batches import Batch, TryOffBatch
from fashiongen.data import masks
from fashiongen.data.images import Size, image_to_tensor, mask_to_tensor, open_image, read_image, read_labels, read_mask
from fashiongen.data.listing import Listing, TryOnRow, fingerprint, mask_origin
from fashiongen.data.reframe import Zooms, reframe, reframe_garment
from fashiongen.data.task_parts import readable_parts, required_parts
from fashiongen.errors import UserError
from fashiongen.tasks import Filter

# The parts that a folder may lack.
OPTIONAL = ("garment", "garment_mask", "parse", "pose", "photo")
# A batch with this part shows the person without the garment: what else it shows must not give the garment away.
AGNOSTIC = "agnostic"
GREY = 128


class EmptyMaskError(UserError):
    """An agnostic mask is empty."""


class TryOnSample:
    """The parts of one sample as a batch of one, each read lazily."""

    def __init__(self, dataset: "TryOnDataset", row: TryOnRow) -> None:
        """Read the files of `row` as `dataset` reads them."""
        self.dataset = dataset
        self.row = row

    @cached_property
    def photo(self) -> Image.Image:
        """The decoded photo of the person."""
        return self.dataset.open_person(self.row)

    @cached_property
    def labels(self) -> Tensor | None:
        """The human-parse labels, uint8 (H, W)."""
        return read_labels(self.row.parse, self.dataset.size) if self.row.parse else None

    @cached_property
    def agnostic_mask(self) -> Tensor:
        """The agnostic mask, bool (1, H, W)."""
        return self.dataset.read_agnostic_mask(self.row, self.photo)

    def person(self) -> Tensor | None:
        """Return the person, uint8 (1, 3, H, W); in an unpaired row the person wearing the other garment, which few datasets know."""
        if self.row.paired:
            return self._photo()[None]
        return read_image(self.row.dressed, self.dataset.size, self.dataset.filter)[None] if self.row.dressed else None

    def agnostic(self) -> Tensor:
        """Return the photo with mid-grey where the mask is True, uint8 (1, 3, H, W)."""
        return self._photo().masked_fill(self.agnostic_mask, GREY)[None]

    def _photo(self) -> Tensor:
        return image_to_tensor(self.photo, self.dataset.size, self.dataset.filter)

    def whole(self) -> Tensor | None:
        """Return the whole photo beside another garment, uint8 (1, 3, H, W); None beside the own garment, where it is the truth."""
        return None if self.row.photo is None else self._photo()[None]

    def mask(self) -> Tensor:
        """Return the agnostic mask, bool (1, 1, H, W)."""
        return self.agnostic_mask[None]

    def category(self) -> list[str]:
        """Return upper, lower or full."""
        return [self.row.category or self.dataset.worn_category(self.labels)]

    def parse(self) -> Tensor | None:
        """Return the human-parse labels, uint8 (1, H, W); 0 inside the mask beside an agnostic person, where they outline the garment."""
        if self.labels is None:
            return None
        hidden = AGNOSTIC in self.dataset.parts
        return (self.labels.masked_fill(self.agnostic_mask[0], 0) if hidden else self.labels)[None]

    def pose(self) -> Tensor | None:
        """Return the keypoints, float32 (1, K, 3)."""
        if self.row.pose is None:
            return None
        return self.dataset.read_pose(self.row.pose, (self.photo.height, self.photo.width), self.dataset.size)[None]

    def garment(self) -> Tensor | None:
        """Return the shop image, uint8 (1, 3, H, W)."""
        return self.dataset.read_garment(self.row)[None] if self.row.garment else None

    def garment_mask(self) -> Tensor | None:
        """Return the foreground of the shop image, bool (1, 1, H, W)."""
        return self.dataset.read_garment_mask(self.row.garment_mask)[None] if self.row.garment_mask else None


PARTS: dict[str, Callable[[TryOnSample], Any]] = {
    "person": TryOnSample.person,
    "agnostic": TryOnSample.agnostic,
    "mask": TryOnSample.mask,
    "category": TryOnSample.category,
    "parse": TryOnSample.parse,
    "pose": TryOnSample.pose,
    "garment": TryOnSample.garment,
    "garment_mask": TryOnSample.garment_mask,
    "photo": TryOnSample.whole,
}
"""The reader of each part, by the name of its batch field."""


class TryOnDataset(Dataset[Batch]):
    """Samples as batches of one, at one size. A dataset's own subclass reads its keypoints and derives missing masks.

    Attributes:
        rows: the samples.
        size: height and width.
        filter: how images are resized to it; masks and labels always by the nearest neighbour.
        batch_type: the type of a sample.
        parts: the fields of a sample to read, if offered.
        offers: the parts that all samples have, so that any samples can share a batch.
        palette: the labels of a parse, `lip` or `atr`; empty if others.
    """

    palette: ClassVar[str] = ""

    def __init__(
        self,
        rows: Sequence[TryOnRow],
        size: Size,
        *,
        batch_type: type[Batch] = TryOffBatch,
        zooms: Mapping[str, Zooms] | None = None,
        filter: Filter = "bilinear",
        in_memory: bool = False,
    ) -> None:
        """Read `rows` at `size` (height, width).

        Args:
            rows: the samples.
            size: height and width.
            batch_type: the type of a sample; only the parts that it has fields for are read.
            zooms: the factors by which the person and the shop image are scaled, for some ids (see `fashiongen.data.reframe`).
            filter: how images are resized.
            in_memory: cache each sample once it is decoded.

        Raises:
            UserError: if the batch type requires a part that is not among `PARTS`.
        """
        self.rows = list(rows)
        self.size = size
        self.filter = filter
        self.batch_type = batch_type
        self.parts = readable_parts(batch_type, PARTS, "try-on data")
        self.zooms = dict(zooms or {})
        self.offers = offered(self.rows, batch_type)
        self._decoded: dict[int, Batch] | None = {} if in_memory else None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        """Return one sample: `person` (1, 3, H, W) uint8 and so on, see the batch type.

        Raises:
            UserError: if a file is missing or damaged.
        """
        if self._decoded is None:
            return self.read(self.rows[index])
        if index not in self._decoded:
            self._decoded[index] = self.read(self.rows[index])
        return self._decoded[index]

    def read(self, row: TryOnRow) -> Batch:
        """Read one sample; an optional part that is not offered is None.

        Raises:
            UserError: if a file is missing or damaged, or the mask is empty.
        """
        sample = TryOnSample(self, row)
        left_out = set(OPTIONAL) - self.offers
        parts: dict[str, Any] = {part: PARTS[part](sample) for part in self.parts if part not in left_out}
        batch = self.batch_type(ids=[row.id], **parts)
        zooms = self.zooms.get(row.id, Zooms())
        if zooms.person != 1.0:
            batch = reframe(batch, zooms.person)
        return batch if zooms.garment == 1.0 else reframe_garment(batch, zooms.garment)

    def open_person(self, row: TryOnRow) -> Image.Image:
        """Decode the photo of a sample."""
        return open_image(row.person)

    def read_garment(self, row: TryOnRow) -> Tensor:
        """Read the shop image of a row that has one: uint8 (3, H, W)."""
        assert row.garment is not None
        return read_image(row.garment, self.size, self.filter)

    def read_garment_mask(self, path: Path) -> Tensor:
        """Read the foreground of a shop image: bool (1, H, W)."""
        return read_mask(path, self.size)

    def read_agnostic_mask(self, row: TryOnRow, image: Image.Image) -> Tensor:
        """Read the agnostic mask, or derive it from other parts: bool (1, H, W), at least partly True.

        Args:
            row: the sample.
            image: its photo.

        Raises:
            UserError: if a file is missing or damaged.
            EmptyMaskError: if the mask is empty: a method would silently restore no garment.
        """
        if row.mask is not None:
            mask = read_mask(row.mask, self.size)
        elif row.agnostic is not None:
            painted = open_image(row.agnostic)
            photo = image if image.size == painted.size else image.resize(painted.size, Image.Resampling.BILINEAR)
            mask = mask_to_tensor(masks.from_painted(np.asarray(painted), np.asarray(photo)), self.size)
        else:
            mask = mask_to_tensor(self.make_mask(row, (image.height, image.width)), self.size)
        if not mask.any():
            what = row.mask or f"the mask that is made from its {mask_origin(row)} ({row.agnostic or row.parse})"
            raise EmptyMaskError(
                f"sample {row.id}: {what} marks no pixel at {self.size[0]}x{self.size[1]}: it must be white where the garment may be; "
                "fix it or remove the sample from the data"
            )
        return mask

    def make_mask(self, row: TryOnRow, source: Size) -> NDArray[np.bool_]:
        """Derive an agnostic mask (h, w) of any size from the labels and keypoints of a photo of size `source`."""
        raise UserError(f"sample {row.id} has no agnostic mask and nothing to make it from")

    def read_pose(self, path: Path, source: Size, size: Size) -> Tensor:
        """Read the keypoints of a photo of size `source`: float32 (K, 3) of x, y in pixels of `size` and confidence."""
        raise UserError(f"{path}: this dataset has no key points")

    def worn_category(self, parse: Tensor | None) -> str:
        """Return the worn garment's category from labels (H, W), for rows without a category."""
        raise UserError("a sample without a category needs a parse")


class ImageDataset(Dataset[Tensor]):
    """One image of each sample of a split, uint8 (3, H, W): the person or the garment."""

    def __init__(self, dataset: TryOnDataset, part: str, listing: Listing, root: Path) -> None:
        """Read the `part` of each sample of `dataset`, which `listing` lists, under `root`."""
        self.dataset = dataset
        self.part = part
        self.listing = listing
        self.root = root

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        """Return one image.

        Raises:
            UserError: if its file is missing or damaged.
        """
        row = self.dataset.rows[index]
        if self.part == "person":
            return image_to_tensor(self.dataset.open_person(row), self.dataset.size, self.dataset.filter)
        return self.dataset.read_garment(row)

    def groups(self, by: str) -> list[str]:
        """Return the category of each image's sample, the only value that samples can be grouped by.

        Raises:
            UserError: if another one is asked for, or a label map that it is derived from cannot be read.
        """
        if by != "category":
            raise UserError(f"evaluate.by={by}: the images of {self.root} can be grouped by their category alone")
        return [TryOnSample(self.dataset, row).category()[0] for row in self.dataset.rows]

    def fingerprint(self) -> str:
        """Return a sha256 over the names and sizes of the images and the content of their lists."""
        return fingerprint(self.listing.sources, [getattr(row, self.part) for row in self.dataset.rows], self.root)


def offered(rows: Sequence[TryOnRow], batch_type: type[Batch]) -> frozenset[str]:
    """Return which parts of a batch all rows have: the optional ones, and the mask, without which a row is refused.

    Person and category count where the batch may lack them. The person of an unpaired row is the one in the other garment.
    """
    required = required_parts(batch_type)
    parts = readable_parts(batch_type, PARTS, "try-on data")
    optional = [part for part in OPTIONAL if part in parts and all(getattr(row, part) is not None for row in rows)]
    always = [part for part in parts if part == "mask" or part not in (*OPTIONAL, *required)]
    if not all(row.paired or row.dressed is not None for row in rows):
        always = [part for part in always if part != "person"]
    return frozenset([*optional, *always])
