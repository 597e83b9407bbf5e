"""The DataModule of try-on datasets, shared by VITON-HD, Dress Code and StreetTryOn.

A dataset's own file defines its names, its pair files and its masks. Pair files are read in `listing.py`, samples in `tryon_dataset.py`.

Sizes are (height, width) throughout.
"""

import hashlib
import json
from abc import abstractmethod
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from PIL import Image

from fashiongen import tasks
from fashiongen.data.folder import FolderData, splits_of
from fashiongen.data.images import Size
from fashiongen.data.listing import UNPAIRED, Listing, TryOnRow, fingerprint, mask_origin
from fashiongen.data.loading import Loader, ResumableLoader
from fashiongen.data.mask_record import RECORD, read_record
from fashiongen.data.task_parts import readable_parts, required_parts
from fashiongen.data.tryon_dataset import AGNOSTIC, OPTIONAL, PARTS, ImageDataset, TryOnDataset, offered
from fashiongen.errors import UserError
from fashiongen.records import CYCLE, MANIFEST
from fashiongen.tasks import Filter

if TYPE_CHECKING:  # it imports this module
    from fashiongen.data.check_tryon import TryOnReport

Pairing = Literal["paired", "unpaired"]
"""Which garment a test puts on a person: the one that the photo shows, or the other one that the pair file names."""

# Our splits, and the half of the dataset that each is taken from.
SPLIT_SOURCES = {"train": "train", "val": "train", "test": "test"}


class TryOnData(FolderData):
    """A try-on dataset: people with the garments they wear, as the batches of one task.

    Splits: the training half without `validation` held-out samples, those held-out samples, and the test half, which `predict` also
    uses. Training and validation are always paired: the second column of a pair file names a garment that the person does not wear. With
    `pairing: unpaired` the test half has those garments instead, and its name ends in `-unpaired`.

    Attributes:
        offers: the parts that the folder holds and the task uses: mask and, if present, garment, garment_mask, parse, pose; in an unpaired
            test the whole photo.
        batch_type: the batch type of the task.
    """

    dataset_class: ClassVar[type[TryOnDataset]]
    has_shop_images: ClassVar[bool] = True
    """False for a dataset without shop images, which cannot be trained on; `data check` then does not report them missing."""
    pairs_hint: ClassVar[str] = ""
    """How to name other garments, for the error that there are none."""
    uniform_size: ClassVar[bool] = True
    """Whether all people and all shop images have the same size; `data check` reports those that differ."""

    def __init__(
        self,
        root: str,
        *,
        people: int = 1200,
        size: tuple[int, int] = (1024, 768),
        batch_size: int = 32,
        validation: int = 64,
        task: str = "vtoff",
        pairing: Pairing = "paired",
        filter: Filter = "bilinear",
        garments: str | None = None,
        **options: Any,  # noqa: ANN401  FolderData's own
    ) -> None:
        """Store the settings; nothing is read before `setup`.

        Args:
            root: the dataset's folder or its parent, or `wardrobe` for the embedded world, rendered on first use.
            people: number of people of the embedded world, train and test together.
            size: height and width that images are resized to.
            batch_size: training samples per process and step.
            validation: number of training samples held out for validation, the same for any seed.
            task: the task whose batches are returned, such as vtoff; only the parts that it has fields for are read.
            pairing: the garments of a try-on test: `paired`, each person's own, or `unpaired`, another one.
            filter: how images are resized to `size`, antialiased: `bilinear`, or `lanczos` as in CatVTON's code.
            garments: a folder with an image for each person of a paired try-on test, named after the sample's id, that replaces the shop
                image, such as the predictions that a try-off test of the same people has kept (`evaluate.keep`): off and on again.
            options: options of every dataset in a folder.
        """
        super().__init__(root, people=people, size=size, batch_size=batch_size, **options)
        if validation < 0:
            raise UserError(f"{self.layout}: data.validation={validation} must be at least 0")
        self.validation = validation
        self.task = task
        self.batch_type = tasks.find(task).batch
        self.parts = readable_parts(self.batch_type, PARTS, self.layout)
        self.pairing = pairing
        if pairing not in get_args(Pairing):
            raise UserError(f"{self.layout}: data.pairing={pairing}: choose {' or '.join(get_args(Pairing))}")
        if pairing == "unpaired":
            if AGNOSTIC not in self.parts:
                raise UserError(f"{self.layout}: data.pairing=unpaired puts other garments on people, which {task} does not: leave it out")
            self.name = f"{self.layout}-unpaired"
        self.filter = filter
        if filter not in get_args(Filter):
            raise UserError(f"{self.layout}: data.filter={filter}: choose {' or '.join(get_args(Filter))}")
        self.garments = None if garments is None else Path(garments).expanduser()
        if self.garments is not None:
            if AGNOSTIC not in self.parts or pairing == "unpaired":
                raise UserError(f"{self.layout}: data.garments={garments}: puts own garments on again: only for paired try-on")
            self.name = f"{self.layout}{CYCLE}"
        self._listings: dict[str, Listing] = {}

    @classmethod
    def check(cls, root: str | Path) -> "TryOnReport":
        """Read all files of a folder like the Dataset, and report everything that is wrong with it.

        Raises:
            UserError: if there is no such folder.
        """
        from fashiongen.data.check_tryon import check_tryon

        return check_tryon(cls, root)

    @abstractmethod
    def listing(self, half: str, part: str = "person") -> Listing:
        """List the samples of a half, train or test, whether or not every file exists.

        Args:
            half: train or test.
            part: person or garment: the part that the folder must hold for at least one sample.

        Raises:
            NotListed: if the pair file is missing.
            UserError: if it is damaged or empty, or the folder holds no sample's `part`.
        """

    def setup(self, stage: str | None = None) -> None:
        """Find the files of the splits of `stage` (fit, validate, test, predict; None: all).

        Raises:
            UserError: if the folder, a pair file or any sample's file is missing, or a mask can neither be read nor derived; each is named.
        """
        self.find_root()
        splits = splits_of(stage)
        rows: dict[str, list[TryOnRow]] = {}
        for half in dict.fromkeys(SPLIT_SOURCES[split] for split in splits):
            listing = self.listing(half)
            self._require(listing)
            for row in listing.rows:
                if row.mask is None and row.agnostic is None and (problem := self.unmaskable(row, listing)):
                    raise UserError(f"{self.layout}: {problem}")
            self._listings[half] = listing
            rows |= self._split(listing)
        if "test" in splits and self.pairing == "unpaired":
            rows["test"] = self._unpaired(rows["test"])
        if "test" in splits and self.garments is not None:
            rows["test"] = self._restored(rows["test"], self.garments)
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
        self.offers = offered([row for split in splits for row in self.datasets[split].rows], self.batch_type)
        if lacking := [part for part in required_parts(self.batch_type) if part in OPTIONAL and part not in self.offers]:
            raise UserError(f"{self.layout}: {self.root} lacks the {', '.join(lacking)} of some samples, which the task {self.task} needs")
        for split in splits:
            self.datasets[split].offers = self.offers

    def images_of(self, split: str, part: str, size: Size | None = None) -> ImageDataset:
        """Find one image of each sample of a split, such as its shop image. Other files of the samples may be missing.

        Args:
            split: train, val or test.
            part: person or garment.
            size: height and width of the images; by default that of the samples.

        Raises:
            UserError: if another part is asked for, what lists the samples is missing or damaged, or an image is missing.
        """
        if part not in ("person", "garment"):
            raise UserError(f"{self.layout}: {part!r} is not an image of a sample; choose garment or person")
        self.find_root()
        listing = self.listing(SPLIT_SOURCES[split], part)
        self._require(listing, part)
        dataset = self.dataset(split, self._split(listing))
        if not len(dataset):
            raise UserError(f"{self.layout}: {listing.lists}: no sample for {split}; set data.validation above 0 for val")
        if size is not None:
            dataset = copy(dataset)
            dataset.size = size
        return ImageDataset(dataset, part, listing, self.root)

    def dataset(self, split: str, rows: dict[str, list[TryOnRow]]) -> TryOnDataset:
        """Build the Dataset of a split, given the rows of all splits that are set up together."""
        return self.dataset_class(rows[split], self.size, batch_type=self.batch_type, filter=self.filter, in_memory=self.in_memory)

    def lacks_garments(self, half: str) -> str:
        """Return the message that there are no shop images."""
        return f"{self.root} has no shop images"

    def _require(self, listing: Listing, only: str | None = None) -> None:
        """Check that a half is complete; `only` is the single part to read, all but `other` if None.

        Raises:
            UserError: naming the first missing file, or the first id that is listed twice.
        """
        if listing.repeated:
            raise UserError(
                f"{listing.lists}: the person {listing.repeated[0]} is listed more than once; ids must be unique, remove the duplicates"
            )
        unread = UNPAIRED if self.pairing == "paired" or listing.half != "test" else ("garment", "garment_mask")
        for part, absent in listing.absent.items():
            if absent and (part == only if only else part not in unread):
                where = absent[0].parents[1]
                raise UserError(
                    f"{self.layout}: {len(absent)} of {len(listing.rows)} samples of {where} lack their {part}, first {absent[0]}; "
                    f"restore the files or remove their lines from {listing.lists}"
                )

    def _unpaired(self, rows: list[TryOnRow]) -> list[TryOnRow]:
        """Return the rows of an unpaired test.

        Raises:
            UserError: if a row names no other garment.
        """
        if lacking := [row.id for row in rows if row.other is None]:
            raise UserError(
                f"{self.layout}: data.pairing=unpaired: {self._listings['test'].lists} names no other garment for {len(lacking)} of "
                f"{len(rows)} people, first {lacking[0]}{self.pairs_hint}"
            )
        return [row.unpaired() for row in rows]

    def _restored(self, rows: list[TryOnRow], folder: Path) -> list[TryOnRow]:
        """Return rows whose shop images are those of a folder.

        Raises:
            UserError: if one is missing or of another size, or the folder holds what a test of another task or dataset has kept.
        """
        kept = _kept(folder)
        for key, wanted in (("task", "vtoff"), ("dataset", self.layout)):
            if kept and kept.get(key) != wanted:
                told = f"{folder} holds predictions of the {key} {kept.get(key)}, not {wanted}"
                raise UserError(f"{self.layout}: data.garments: {told}: its images are not these people's garments")
        found = [replace(row, garment=folder / f"{row.id}.png", garment_mask=None) for row in rows]
        if absent := [row.garment for row in found if row.garment is not None and not row.garment.is_file()]:
            raise UserError(
                f"{self.layout}: data.garments: {len(absent)} of {len(found)} people have no garment there, first {absent[0]}: give the "
                "predictions that a try-off test of the same people has kept (evaluate.keep)"
            )
        for row in found:
            assert row.garment is not None
            with Image.open(row.garment) as image:
                if image.size != self.size[::-1]:
                    sizes = f"{image.height}x{image.width}, and data.size {self.size[0]}x{self.size[1]}"
                    raise UserError(f"{self.layout}: data.garments: {row.garment} is {sizes}: take garments off at the same size")
        return found

    @abstractmethod
    def unmaskable(self, row: TryOnRow, listing: Listing) -> str | None:
        """Return why no agnostic mask can be derived for a row without one; None if it can."""

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
        """Return the training batches, shuffled by (seed, epoch), resumable mid-epoch."""
        return self.training_loader(self.datasets["train"])

    def val_dataloader(self) -> Loader | list[Loader]:
        """Return the held-out training pairs, in order; none if `validation` is 0."""
        return self.evaluation_loader(self.datasets["val"], block=1) if len(self.datasets["val"]) else []

    def test_dataloader(self) -> Loader:
        """Return the test pairs, in order, each once."""
        return self.evaluation_loader(self.datasets["test"], block=self.eval_batch_size)

    def predict_dataloader(self) -> Loader:
        """Return the test pairs, in order, each once."""
        return self.evaluation_loader(self.datasets["test"], block=self.eval_batch_size)

    def fingerprint(self) -> str:
        """Return a sha256 over the names and sizes of the current split's files and the content of its lists.

        Masks that `fashiongen data masks` has made, or the user has then corrected, often keep their size: their content counts.
        """
        contents, rows = self._contents(), self.datasets[self.split].rows
        if self.garments is not None and self.split == "test":  # predictions of two methods may have the same size
            contents += [row.garment for row in rows if row.garment is not None]
        return fingerprint(contents, [file for row in rows for file in row.files()], self.root)

    def fingerprint_of_people(self) -> str:
        """Return the fingerprint without the garments: the same whichever garments replace the shop images."""
        rows = [replace(row, garment=None) for row in self.datasets[self.split].rows]
        return fingerprint(self._contents(), [file for row in rows for file in row.files()], self.root)

    def _contents(self) -> list[Path]:
        """Return the files whose content decides what a split holds: its lists, and masks that were made."""
        rows = self.datasets[self.split].rows
        contents = list(self._listings[SPLIT_SOURCES[self.split]].sources)
        if read_record(self.root) is not None:
            contents += [self.root / RECORD, *sorted({row.mask for row in rows if row.mask is not None})]
        return contents

    @property
    def garments_name(self) -> str | None:
        """Where the garments that replace the shop images are from: a recipe with its overlays, or a folder of other images."""
        if self.garments is None:
            return None
        kept = _kept(self.garments)
        if not kept:
            return self.garments.resolve().name
        named = [Path(name) for name in (kept.get("recipe") or kept.get("method", ""), *kept.get("overlays", []))]
        # As a leaderboard names rows: a file of `recipes/tasks` belongs to the protocol.
        return "+".join(path.name.removesuffix(".yaml") for path in named if path.parent.name != "tasks")

    def sample_names(self) -> dict[str, dict[str, str]]:
        """Return each sample's id with the names of its person, its garment and the other garment of an unpaired test."""
        return {
            row.id: {role: file.stem for role, file in (("input", row.person), ("own", row.garment), ("other", row.other)) if file}
            for row in self.datasets[self.split].rows
        }

    def describe(self) -> dict[str, Any]:
        """Return what is read, for a log.

        Name, root, size and filter; per split the samples, how many of them have their own garment (paired) and another one (unpaired),
        and the source of the masks; the parts offered.
        """
        counts: dict[str, dict[str, int]] = {"samples": {}, "paired": {}, "unpaired": {}}
        origins = {}
        made = read_record(self.root)
        for split, dataset in self.datasets.items():
            counts["samples"][split] = len(dataset)
            counts["paired"][split] = sum(row.garment is not None for row in dataset.rows)
            counts["unpaired"][split] = sum(not row.paired or row.other is not None for row in dataset.rows)
            origins[split] = sorted({mask_origin(row) for row in dataset.rows})
            if made is not None:
                origins[split] = [f"made from {made.settings.get('from')}" if origin == "file" else origin for origin in origins[split]]
        return {
            "name": self.name,
            "root": str(self.root),
            "size": list(self.size),
            "filter": self.filter,
            **counts,
            "masks": origins,
            "garments": None if self.garments is None else _kept(self.garments).get("method", "images of another program"),
            "offers": sorted(self.offers),
        }


def _kept(folder: Path) -> dict[str, Any]:
    """Return the record of kept predictions; empty for images of another program.

    Raises:
        UserError: if it is damaged.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return {}
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"data.garments: {file} is damaged ({error}): keep the predictions again") from error
    return record
