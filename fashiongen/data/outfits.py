"""The DataModule of outfits of users, shared by iFashion and Polyvore-U (DiFashion's layout). Sizes are (height, width)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch.utilities import rank_zero_warn

from fashiongen import tasks
from fashiongen.data.folder import FolderData, splits_of
from fashiongen.data.images import Size
from fashiongen.data.loading import Loader, ResumableLoader
from fashiongen.data.outfit_dataset import ItemDataset, Knowledge, OutfitDataset, PreferenceSampler, Show, World, read_world
from fashiongen.data.outfit_images import Fit, ImageFinder, ItemReader
from fashiongen.data.outfit_lists import STEMS, History, OutfitLists, OutfitRow
from fashiongen.data.pair_datasets import OnError, collate_readable
from fashiongen.errors import UserError
from fashiongen.outfit_batches import ComposeBatch, OutfitBatch
from fashiongen.wardrobe.layouts import TRUTH

if TYPE_CHECKING:  # it imports this module
    from fashiongen.data.check_outfits import OutfitReport


class OutfitData(FolderData):
    """Outfits of users with their histories (`OutfitBatch` of the task).

    Training samples show whole outfits; validation and tests show all items but one (`pfitb`) or none (`gor`).

    Attributes:
        offers: images and history, unless `images` is False; history_items, captions, preference, if the folder has them; candidates in
            validation and tests of `pfitb`; attributes and likes in the embedded world.
        lists: the lists in the folder, of the last `setup`.
        rows: the outfits of the last `setup`, by split.
        skipped: messages about samples that training skipped because their files are damaged.
    """

    markers: ClassVar[tuple[str, ...]] = ("fitb_test.npy", "new_fitb_test.npy", "train.npy", "processed", "map")
    flat: ClassVar[tuple[str, ...]] = ()
    """Folders with the images of all items, named after their numbers."""

    def __init__(
        self,
        root: str,
        *,
        people: int = 2000,
        size: tuple[int, int] = (512, 512),
        batch_size: int = 2,
        task: str = "pfitb",
        images: bool = True,
        history: int | None = None,
        preference: PreferenceSampler | None = None,
        mapping: str | None = None,
        image_folder: str | None = None,
        fit: Fit = "pad",
        on_error: OnError = "fail",
        **options: Any,  # noqa: ANN401  FolderData's own
    ) -> None:
        """Store the settings; nothing is read before `setup`.

        Args:
            root: the dataset's folder or its parent, or `wardrobe` for the embedded world, rendered on first use.
            people: number of outfits of the embedded world, all splits together.
            size: height and width that images are resized to.
            batch_size: training outfits per process and step.
            task: `pfitb`, one item of each test outfit is missing, or `gor`, all are.
            images: False reads only the lists.
            history: the number of latest items that a user's history shows per category; null for all, 0 for no history.
            preference: draws a user's preference from the frequencies of values in the history, if the folder has these:
                `fashiongen.preference.sample_preference`. Called with the frequencies by attribute and value, (user, category) and `seed`.
            mapping: a CSV file with the columns `id` and `path` that says where items' images are, below the image folder.
            image_folder: the folder of the images; by default `root`.
            fit: how images of another aspect ratio are brought to `size`: `pad` with white as DiFashion does, or `stretch`.
            on_error: how training handles a damaged image: `fail` stops, `skip` skips the outfit, counts it and warns. A test
                always fails.
            options: options of every dataset in a folder.

        Raises:
            UserError: if the task is of no outfits, or a setting is out of range.
        """
        super().__init__(root, people=people, size=size, batch_size=batch_size, **options)
        batch = tasks.find(task).batch
        if not issubclass(batch, OutfitBatch):
            raise UserError(f"{self.layout}: data.task={task} is of no outfits; choose pfitb or gor, or another dataset")
        if history is not None and history < 0:
            raise UserError(f"{self.layout}: data.history={history} is below 0; give the number of latest items, or null for all")
        self.task = task
        self.batch: type[OutfitBatch] = batch
        self.images = images
        self.history = history
        self.preference = preference
        self.mapping = None if mapping is None else Path(mapping).expanduser()
        self.image_folder = None if image_folder is None else Path(image_folder).expanduser()
        self.fit: Fit = fit
        self.on_error: OnError = on_error
        self.lists = OutfitLists(self.root, self.layout)
        self.rows: dict[str, list[OutfitRow]] = {}
        self.skipped: list[str] = []
        self._finder: ImageFinder | None = None
        self._reader: ItemReader | None = None
        self._world: World | None = None

    @classmethod
    def check(cls, root: str | Path) -> OutfitReport:
        """Read all lists and images of a folder, and report everything that is wrong with them.

        Raises:
            UserError: if there is no such folder.
        """
        from fashiongen.data.check_outfits import check_outfits

        return check_outfits(cls, root)

    def setup(self, stage: str | None = None) -> None:
        """Read the lists of the splits of `stage` (fit, validate, test, predict; None: all) and find the images.

        Raises:
            UserError: if the folder, a list, or the image of an item in a sample is missing, or a list is damaged or wrong.
        """
        self.find_root()
        self.lists = OutfitLists(self.root, self.layout)
        splits = splits_of(stage)
        self.rows = {split: self.lists.rows(split) for split in splits}
        self._finder = None
        self._reader = ItemReader({}, self.size, self.fit, self.in_memory) if self.images else None
        self._world = read_world(self.root / TRUTH) if self.embedded else None
        known = self._known(splits)
        self.datasets = {split: self._dataset(split, known[split]) for split in splits}
        if self._reader is not None:
            self._reader.paths = self._require({split: self.datasets[split] for split in splits})
        self.split = splits[0]
        of_all = [known[split] for split in splits]
        offered = {
            "images": self.images,
            "history": self.images and of_all[0].history is not None,
            "history_items": of_all[0].history is not None,
            "captions": of_all[0].caption is not None,
            "preference": of_all[0].has_preferences,
            "candidates": all(self.datasets[split].candidates for split in splits),
            "attributes": self._world is not None,
            "likes": self._world is not None,
        }
        self.offers = frozenset(name for name, there in offered.items() if there)

    def _known(self, splits: Iterable[str]) -> dict[str, Knowledge]:
        """Read what is known of each split besides its outfits: of all the same parts."""
        history = self._histories(splits)
        frequencies = {split: self.lists.frequencies(split) if self.preference else None for split in splits}
        everywhere = all(found is not None for found in frequencies.values())
        return {
            split: Knowledge(
                self.lists.categories,
                history[split],
                self.history,
                self.lists.caption if self.lists.has_captions else None,
                frequencies[split] if everywhere else None,
                self.preference,
                self.seed,
                self._world,
            )
            for split in splits
        }

    def _histories(self, splits: Iterable[str]) -> dict[str, History | None]:
        """Read the histories of each split, or none if `history` is 0 or the folder has none at all.

        Raises:
            UserError: if only some are missing: iFashion's repository lacks that of training.
        """
        if self.history == 0 or not any(self.lists.find(f"{name}_history") for name in STEMS.values()):
            return dict.fromkeys(splits)
        found = {split: self.lists.history(split) for split in splits}
        for split, history in found.items():
            if history is None:
                raise UserError(
                    f"{self.layout}: {self.root / STEMS[split]}_history.npy is missing, which holds the histories of {split}; get it from "
                    "the dataset's authors, or set data.init_args.history=0 for a method that reads none"
                )
        return found

    def _dataset(self, split: str, known: Knowledge) -> OutfitDataset:
        show: Show = "all" if split == "train" else "nothing" if issubclass(self.batch, ComposeBatch) else "given"
        candidates = show == "given" and all(row.candidates for row in self.rows[split])
        return OutfitDataset(
            self.rows[split],
            self.batch,
            show,
            known,
            self._reader,
            candidates=candidates,
            candidate_images=candidates and split == "test",
            on_error=self.on_error if split == "train" else "fail",
        )

    @property
    def finder(self) -> ImageFinder:
        """Finds the images of items."""
        if self._finder is None:
            self._finder = ImageFinder(self.lists, self.image_folder or self.root, self.mapping, self.flat)
        return self._finder

    def _require(self, datasets: dict[str, OutfitDataset]) -> dict[int, Path]:
        """Return the images of all items that the samples are read from.

        Raises:
            UserError: if one is missing.
        """
        found: dict[int, Path] = {}
        for split, dataset in datasets.items():
            wanted = dict.fromkeys(item for row in dataset.rows for item in dataset.read_items(row))
            found |= self.finder.find_all(item for item in wanted if item not in found)
            if absent := [item for item in wanted if item not in found]:
                raise UserError(
                    f"{self.layout}: {len(absent)} of the {len(wanted)} images of the {split} outfits are missing, first "
                    f"{self.finder.first_place(absent[0])}; restore them, say where they are by data.init_args.mapping or image_folder, "
                    "or set data.init_args.images=false for a method that needs none"
                )
        return found

    def train_dataloader(self) -> ResumableLoader:
        """Return the training batches, shuffled by (seed, epoch), resumable mid-epoch."""
        return self.training_loader(self.datasets["train"], "outfits", collate_fn=collate_readable)

    def val_dataloader(self) -> Loader:
        """Return the validation outfits, in order, for a method's validation loss."""
        return self.evaluation_loader(self.datasets["val"], block=1)

    def test_dataloader(self) -> Loader:
        """Return the test outfits, in order, each once."""
        return self.evaluation_loader(self.datasets["test"], block=self.eval_batch_size)

    def predict_dataloader(self) -> Loader:
        """Return the test outfits, in order, each once."""
        return self.test_dataloader()

    def catalogue(self, split: str = "train") -> ItemDataset:
        """Return the distinct items of a split's outfits, each once, after `setup`; the split need not be one of the stage's.

        Raises:
            UserError: if the split's list or an image is missing.
        """
        return self._items(split, self.size)

    def images_of(self, split: str, field: str, size: Size | None = None) -> ItemDataset:
        """Find the images of the distinct items of a split's outfits.

        Args:
            split: train, val or test.
            field: `item`.
            size: height and width of the images; by default that of the samples.

        Raises:
            UserError: if `field` is another, or a list or an image is missing.
        """
        if field != "item":
            raise UserError(f"{self.name} has no images of {field!r}; its outfits have those of `item`")
        if not self.images:
            raise UserError(f"{self.name} is read without images: set data.init_args.images=true")
        return self._items(split, size or self.size)

    def _items(self, split: str, size: Size) -> ItemDataset:
        rows = self.rows[split] if split in self.rows else self.lists.rows(split)
        numbers = {item: number for row in rows for item, number in zip(row.truth, row.categories, strict=True)}
        reader = None
        if self.images:
            found = self.finder.find_all(numbers)
            if absent := [item for item in numbers if item not in found]:
                place = self.finder.first_place(absent[0])
                raise UserError(
                    f"{self.layout}: {len(absent)} of the {len(numbers)} items of {split} have no image, first {place}; restore them"
                )
            reader = ItemReader(found, size, self.fit, self.in_memory)
        return ItemDataset({item: self.lists.categories[number] for item, number in numbers.items()}, reader, self._world)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401  Lightning's own signature
        """Count and report skipped samples."""
        for reason in getattr(batch, "skipped", None) or ():
            self.skipped.append(reason)
            rank_zero_warn(f"left out of training (number {len(self.skipped)} so far): {reason}")
        return batch

    def teardown(self, stage: str) -> None:
        """Report the number of skipped samples."""
        if stage == "fit" and self.skipped:
            rank_zero_warn(f"{len(self.skipped)} times an outfit was left out of training because an image could not be read")

    def fingerprint(self) -> str:
        """Return a sha256 over the current split's lists and the names and sizes of its existing images, whole histories included.

        It identifies the folder's content, whether or not this run reads images and histories.
        """
        digest = hashlib.sha256()
        for path in self.lists.files(self.split):
            digest.update(path.read_bytes())
        rows = self.rows[self.split]
        named = {item for row in rows for item in (*row.truth, *row.candidates)}
        named |= {item for of_user in (self.lists.history(self.split) or {}).values() for items in of_user.values() for item in items}
        for item, path in sorted(self.finder.find_all(sorted(named)).items()):
            digest.update(f"\0{item}\0{path.name}\0{path.stat().st_size}".encode())
        return digest.hexdigest()

    def sample_names(self) -> dict[str, dict[str, str]]:
        """Return each outfit's id; it has no image of its own."""
        return {row.id: {} for row in self.rows[self.split]}

    def describe(self) -> dict[str, Any]:
        """Return what is read, for a log: name, root, size; per split outfits, users, items; what is offered."""
        counts = {
            split: {
                "outfits": len(rows),
                "users": len({row.user for row in rows}),
                "items": len({item for row in rows for item in row.truth}),
            }
            for split, rows in self.rows.items()
        }
        return {**super().describe(), "splits": counts}
