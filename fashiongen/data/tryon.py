"""The try-on reader: what VITON-HD, Dress Code and StreetTryOn share.

The Dataset of try-off samples and the LightningDataModule. A dataset's own file holds its names, its pair files and its masks; how pair
files are read stands in `listing.py`, how images are read in `images.py`.

Sizes are (height, width) throughout.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fashiongen.batches import TryOffBatch
from fashiongen.data import masks
from fashiongen.data.cache import EMBEDDED, embedded_folder, render_once
from fashiongen.data.images import Size, image_to_tensor, mask_to_tensor, open_image, read_image, read_labels, read_mask
from fashiongen.data.listing import Listing, TryOnRow, fingerprint, locate, mask_origin
from fashiongen.data.loading import Loader, LoadingData, ResumableLoader, require_at_least_one
from fashiongen.errors import UserError

# Each split of ours, and the half of the dataset that it is taken from.
SPLIT_SOURCES = {"train": "train", "val": "train", "test": "test"}
STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}
# The fields of a batch that a folder may or may not fill.
OPTIONAL = ("garment", "garment_mask", "parse", "pose")


def read_openpose(path: Path, count: int, source: Size, size: Size) -> Tensor:
    """Read OpenPose's `people[0].pose_keypoints_2d`: float32 (count, 3) of x, y in pixels of `size` and confidence.

    Args:
        path: the JSON file; where it holds no people, all key points are zero.
        count: number of key points.
        source: size of the image on which they were found.
        size: size of the image that they are scaled to.

    Raises:
        UserError: if the file is missing or not of that form.
    """
    try:
        people = json.loads(path.read_text(encoding="utf-8"))["people"]
        flat = people[0]["pose_keypoints_2d"] if people else [0.0] * (3 * count)
        points = torch.tensor(flat, dtype=torch.float32).reshape(count, 3)
        if not points.isfinite().all():
            raise ValueError("JSON as Python reads it may hold NaN")
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        raise UserError(f"{path}: no OpenPose file with people[0].pose_keypoints_2d of {count} points ({type(error).__name__})") from error
    return points * torch.tensor([size[1] / source[1], size[0] / source[0], 1.0])


class EmptyMaskError(UserError):
    """An agnostic mask is empty."""


class TryOnDataset(Dataset[TryOffBatch]):
    """Samples as batches of one, at one size; a dataset's own class reads its key points and makes masks that the folder lacks.

    Attributes:
        rows: the samples.
        size: height and width.
        offers: the parts that are given, which all samples have, so that any of them can share a batch.
    """

    def __init__(self, rows: Sequence[TryOnRow], size: Size, *, in_memory: bool = False) -> None:
        """Read `rows` at `size` (height, width).

        Args:
            rows: the samples.
            size: height and width.
            in_memory: keep each sample once it is decoded.
        """
        self.rows = list(rows)
        self.size = size
        self.offers = offered(self.rows)
        self._kept: dict[int, TryOffBatch] | None = {} if in_memory else None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def __getitem__(self, index: int) -> TryOffBatch:
        """Return one sample: `person` (1, 3, H, W) uint8 and so on, see TryOffBatch.

        Raises:
            UserError: if a file is missing or damaged.
        """
        if self._kept is None:
            return self.read(self.rows[index])
        if index not in self._kept:
            self._kept[index] = self.read(self.rows[index])
        return self._kept[index]

    def read(self, row: TryOnRow) -> TryOffBatch:
        """Read one sample.

        Raises:
            UserError: if a file is missing or damaged, or the mask is empty.
        """
        image = self.open_person(row)
        parse = read_labels(row.parse, self.size) if row.parse else None
        sample = TryOffBatch(
            ids=[row.id],
            person=image_to_tensor(image, self.size)[None],
            mask=self.read_agnostic_mask(row, image)[None],
            category=[row.category or self.worn_category(parse)],
            parse=_with_batch(parse),
            pose=_with_batch(self.read_pose(row.pose, (image.height, image.width), self.size) if row.pose else None),
            garment=_with_batch(read_image(row.garment, self.size) if row.garment else None),
            garment_mask=_with_batch(self.read_garment_mask(row.garment_mask) if row.garment_mask else None),
        )
        withheld: dict[str, Any] = dict.fromkeys(set(OPTIONAL) - self.offers)
        return replace(sample, **withheld)

    def open_person(self, row: TryOnRow) -> Image.Image:
        """Decode the photo of a sample."""
        return open_image(row.person)

    def read_garment_mask(self, path: Path) -> Tensor:
        """Read the foreground of a shop image: bool (1, H, W)."""
        return read_mask(path, self.size)

    def read_agnostic_mask(self, row: TryOnRow, image: Image.Image) -> Tensor:
        """Read the agnostic mask, or make it from what else there is: bool (1, H, W), some of it True, perhaps all.

        Args:
            row: the sample.
            image: its photo.

        Raises:
            UserError: if a file is missing or damaged.
            EmptyMaskError: if the mask is empty: what a method made of it would be no garment, and nobody would know.
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
                f"sample {row.id}: {what} marks nothing at {self.size[0]}x{self.size[1]}: it must be white where the garment may be; "
                "mend it or leave the sample out of the data"
            )
        return mask

    def make_mask(self, row: TryOnRow, source: Size) -> NDArray[np.bool_]:
        """Make an agnostic mask (h, w) of any size from the labels and points of a photo of size `source`."""
        raise UserError(f"sample {row.id} has no agnostic mask and nothing to make it from")

    def read_pose(self, path: Path, source: Size, size: Size) -> Tensor:
        """Read the key points of a photo of size `source`: float32 (K, 3) of x, y in pixels of `size` and confidence."""
        raise UserError(f"{path}: this dataset has no key points")

    def worn_category(self, parse: Tensor | None) -> str:
        """Tell the category of what is worn from labels (H, W), for rows that do not name it."""
        raise UserError("a sample without a category needs a parse")


def _with_batch(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor[None]


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
        row, size = self.dataset.rows[index], self.dataset.size
        return image_to_tensor(self.dataset.open_person(row) if self.part == "person" else open_image(getattr(row, self.part)), size)

    def fingerprint(self) -> str:
        """Return a sha256 over the names and sizes of the images and the content of what lists them."""
        return fingerprint(self.listing.sources, [getattr(row, self.part) for row in self.dataset.rows], self.root)


class TryOnData(LoadingData):
    """A try-on dataset for garment restoration (`TryOffBatch`): each person with the garment that it wears.

    Splits: the training half less `validation` samples that are never trained on, those held-out samples, and the test half, which
    `predict` uses as well. Rows also know the other garment that an unpaired test puts on a person; a try-off batch has no use for it.

    Attributes:
        name: the dataset's name in records.
        split: the split of the last `setup`: train, val or test.
        offers: the parts that the folder holds: mask, and where present garment, garment_mask, parse, pose.
        datasets: by split, those of the last `setup`.
    """

    task = "vtoff"
    markers: ClassVar[tuple[str, ...]]
    dataset_class: ClassVar[type[TryOnDataset]]

    def __init__(
        self,
        root: str,
        people: int = 1200,
        world_seed: int = 0,
        size: tuple[int, int] = (1024, 768),
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 4,
        seed: int = 0,
        validation: int = 64,
        in_memory: bool = False,
    ) -> None:
        """Say what to read; nothing is read before `setup`.

        Args:
            root: the dataset's folder or the one around it, or `wardrobe` for the embedded world, rendered on first use.
            people: number of people of the embedded world, train and test together.
            world_seed: seed of the embedded world.
            size: height and width that images are resized to.
            batch_size: training samples per process and step.
            eval_batch_size: samples per process and step in validation, test and prediction; by default `batch_size`.
            num_workers: worker processes per loader.
            seed: seed of the training order.
            validation: number of training samples that are held out for validation; the same ones for any seed.
            in_memory: keeps the decoded samples in memory, in the main process (no workers).
        """
        super().__init__()
        require_at_least_one(self.layout, size=size, batch_size=batch_size, eval_batch_size=eval_batch_size)
        if validation < 0:
            raise UserError(f"{self.layout}: data.validation={validation} must be at least 0")
        self.name = self.layout
        self.root = embedded_folder(self.layout, people, size, world_seed) if root == EMBEDDED else Path(root).expanduser()
        self.embedded = root == EMBEDDED
        self.people = people
        self.world_seed = world_seed
        self.size = size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = 0 if in_memory else num_workers
        self.seed = seed
        self.validation = validation
        self.in_memory = in_memory
        self.split = "train"
        self.offers: frozenset[str] = frozenset()
        self.datasets: dict[str, TryOnDataset] = {}
        self._listings: dict[str, Listing] = {}
        # A test set smaller than the number of processes leaves some without a sample.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def prepare_data(self) -> None:
        """Render the embedded world unless it is there (one process per machine calls this)."""
        if self.embedded:
            from fashiongen import wardrobe

            write = getattr(wardrobe, f"write_{self.layout}")
            render_once(self.root, lambda folder: write(folder, people=self.people, size=self.size, seed=self.world_seed))

    @abstractmethod
    def listing(self, half: str, part: str = "person") -> Listing:
        """List the samples of a half, train or test, whether or not every file is there.

        Args:
            half: train or test.
            part: person or garment: that which the folder must hold of some sample at least.

        Raises:
            NotListed: if what lists them is missing.
            UserError: if it is damaged or empty, or the folder holds no sample's `part`.
        """

    def setup(self, stage: str | None = None) -> None:
        """Find the files of the splits of `stage` (fit, validate, test, predict; None: all).

        Raises:
            UserError: if the folder, a pair file or any sample's file is missing, or a mask can neither be read nor made; each is named.
        """
        self.prepare_data()
        self.root = locate(self.root, self.markers)
        splits = STAGES[stage] if stage else tuple(SPLIT_SOURCES)
        rows: dict[str, list[TryOnRow]] = {}
        for half in dict.fromkeys(SPLIT_SOURCES[split] for split in splits):
            listing = self.listing(half)
            self._require(listing)
            for row in listing.rows:
                if row.mask is None and row.agnostic is None and (problem := self.unmaskable(row, listing)):
                    raise UserError(f"{self.layout}: {problem}")
            self._listings[half] = listing
            rows |= self._split(listing)
        for split in splits:
            self.datasets[split] = self.dataset(split, rows)
            if not len(self.datasets[split]) and split != "val":
                raise UserError(
                    f"{self.layout}: no {split} sample is left of {self._listings[SPLIT_SOURCES[split]].lists}; check the settings of data"
                )
            if split != "test" and any(row.garment is None for row in self.datasets[split].rows):
                raise UserError(f"{self.layout}: {self.lacks_garments(SPLIT_SOURCES[split])}: training needs the shop images")
        if not any(len(self.datasets[split]) for split in splits):
            raise UserError(f"{self.layout}: {self.root}: no sample for {' or '.join(splits)}; set data.validation above 0 to validate")
        self.split = splits[0]
        self.offers = offered([row for split in splits for row in self.datasets[split].rows])
        for split in splits:
            self.datasets[split].offers = self.offers

    def images_of(self, split: str, part: str) -> ImageDataset:
        """Find one image of each sample of a split, such as its shop image, whatever else of the samples the folder lacks.

        Args:
            split: train, val or test.
            part: person or garment.

        Raises:
            UserError: if another part is asked for, what lists the samples is missing or damaged, or an image is missing.
        """
        if part not in ("person", "garment"):
            raise UserError(f"{self.layout}: {part!r} is no image of a sample; choose garment or person")
        self.prepare_data()
        self.root = locate(self.root, self.markers)
        listing = self.listing(SPLIT_SOURCES[split], part)
        self._require(listing, part)
        dataset = self.dataset(split, self._split(listing))
        if not len(dataset):
            raise UserError(f"{self.layout}: {listing.lists}: no sample for {split}; set data.validation above 0 for val")
        return ImageDataset(dataset, part, listing, self.root)

    def dataset(self, split: str, rows: dict[str, list[TryOnRow]]) -> TryOnDataset:
        """Build the Dataset of a split out of the rows of all splits that are set up together."""
        return self.dataset_class(rows[split], self.size, in_memory=self.in_memory)

    def lacks_garments(self, half: str) -> str:
        """Say that there are no shop images."""
        return f"{self.root} has no shop images"

    def _require(self, listing: Listing, only: str | None = None) -> None:
        """Refuse a half that is not whole; `only` is the one part that is to be read, all but `other` if None.

        Raises:
            UserError: naming the first file that is not there, or the first id that is listed twice.
        """
        if listing.repeated:
            raise UserError(
                f"{listing.lists}: the person {listing.repeated[0]} is listed more than once; ids must be unique, take the repeats out"
            )
        for part, absent in listing.absent.items():
            if absent and part == only if only else absent and part != "other":
                where = absent[0].parents[1]
                raise UserError(
                    f"{self.layout}: {len(absent)} of {len(listing.rows)} samples of {where} lack their {part}, first {absent[0]}; "
                    f"restore the files or take their lines out of {listing.lists}"
                )

    @abstractmethod
    def unmaskable(self, row: TryOnRow, listing: Listing) -> str | None:
        """Say why no agnostic mask can be made for a row that has none; None if one can."""

    def _split(self, listing: Listing) -> dict[str, list[TryOnRow]]:
        if listing.half == "test":
            return {"test": listing.rows}
        if self.validation >= len(listing.rows):
            count = len(listing.rows)
            raise UserError(
                f"{self.layout}: data.validation={self.validation} leaves nothing of the {count} pairs of {listing.lists} to train on"
            )
        ids = sorted((row.id for row in listing.rows), key=lambda id_: hashlib.sha256(id_.encode()).digest())
        held_out = set(ids[: self.validation])
        rows = listing.rows
        return {"train": [row for row in rows if row.id not in held_out], "val": [row for row in rows if row.id in held_out]}

    def train_dataloader(self) -> ResumableLoader:
        """Give the training batches, shuffled by (seed, epoch), resumable in mid-epoch."""
        return self.training_loader(self.datasets["train"])

    def val_dataloader(self) -> Loader | list[Loader]:
        """Give the held-out training pairs, in order; nothing where `validation` is 0."""
        return self.evaluation_loader(self.datasets["val"], block=1) if len(self.datasets["val"]) else []

    def test_dataloader(self) -> Loader:
        """Give the test pairs, in order, each once."""
        return self.evaluation_loader(self.datasets["test"], block=self.eval_batch_size)

    def predict_dataloader(self) -> Loader:
        """Give the test pairs, in order, each once."""
        return self.evaluation_loader(self.datasets["test"], block=self.eval_batch_size)

    def fingerprint(self) -> str:
        """Return a sha256 over the names and sizes of the current split's files and the content of what lists them."""
        files = [file for row in self.datasets[self.split].rows for file in row.files()]
        return fingerprint(self._listings[SPLIT_SOURCES[self.split]].sources, files, self.root)

    def describe(self) -> dict[str, Any]:
        """Return what is read, for a log.

        Name, root and size; per split the samples, how many of them have their own garment (paired) and another one (unpaired), and where
        the masks come from; the parts offered.
        """
        counts: dict[str, dict[str, int]] = {"samples": {}, "paired": {}, "unpaired": {}}
        origins = {}
        for split, dataset in self.datasets.items():
            counts["samples"][split] = len(dataset)
            counts["paired"][split] = sum(row.garment is not None for row in dataset.rows)
            counts["unpaired"][split] = sum(row.other is not None for row in dataset.rows)
            origins[split] = sorted({mask_origin(row) for row in dataset.rows})
        return {
            "name": self.name,
            "root": str(self.root),
            "size": list(self.size),
            **counts,
            "masks": origins,
            "offers": sorted(self.offers),
        }


def offered(rows: Sequence[TryOnRow]) -> frozenset[str]:
    """Return the parts beside the person that all rows have, the mask always: one without is refused."""
    return frozenset(["mask", *(part for part in OPTIONAL if all(getattr(row, part) is not None for row in rows))])
