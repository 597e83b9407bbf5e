"""The DataModule of tops with bottoms, shared by FashionVC, ExpReduced and FashionTaobaoTB (in GeCo's format).

A split is one list; all images are in one folder and named after the ids. Sizes are (height, width); an image with another aspect ratio
is stretched, as in the authors' code.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch.utilities import rank_zero_warn

from fashiongen.data.folder import FolderData, splits_of
from fashiongen.data.listing import read_lines
from fashiongen.data.loading import Loader, ResumableLoader
from fashiongen.data.pair_datasets import CatalogueDataset, OnError, PairDataset, QueryDataset, collate_readable
from fashiongen.data.pair_lists import PairRow, read_rows
from fashiongen.errors import UserError
from fashiongen.wardrobe.layouts import TRUTH

if TYPE_CHECKING:  # it imports this module
    from fashiongen.data.check_pairs import PairReport

LISTS, IMAGES = "files", "img"
ENDINGS = (".jpg", ".jpeg", ".png")


class TopBottomData(FolderData):
    """Tops with matching bottoms (`PairBatch` in training and validation, `QueryBatch` and a catalogue in tests).

    Attributes:
        offers: images, unless `images` is False; attributes for the embedded world.
        rows: the rows of the last `setup`, by split.
        skipped: messages about samples that training skipped because their files are damaged.
    """

    task = "retrieval"
    markers: ClassVar[tuple[str, ...]] = (LISTS, IMAGES)
    lists: ClassVar[dict[str, tuple[str, ...]]]
    """For each split the names of its list in copies of the dataset, the authors' name first."""

    def __init__(
        self,
        root: str,
        *,
        people: int = 2000,
        size: tuple[int, int] = (128, 128),
        batch_size: int = 64,
        images: bool = True,
        on_error: OnError = "fail",
        **options: Any,  # noqa: ANN401  FolderData's own
    ) -> None:
        """Store the settings; nothing is read before `setup`.

        Args:
            root: the dataset's folder (`files/` with the lists, `img/` with the images) or its parent, or `wardrobe` for the
                embedded world, rendered on first use.
            people: number of pairs of the embedded world, all splits together.
            size: height and width that images are resized to.
            batch_size: training pairs per process and step.
            images: False reads only the lists, for methods that need no images.
            on_error: how training handles a damaged image: `fail` stops, `skip` skips the pair, counts it and warns. A test
                always fails.
            options: options of every dataset in a folder.
        """
        super().__init__(root, people=people, size=size, batch_size=batch_size, **options)
        self.images = images
        self.on_error = on_error
        self.rows: dict[str, list[PairRow]] = {}
        self.skipped: list[str] = []
        self._items: dict[str, Any] = {}
        self._files: dict[str, Path] = {}

    @classmethod
    def check(cls, root: str | Path) -> "PairReport":
        """Read all lists and images of a folder, and report everything that is wrong with them.

        Raises:
            UserError: if there is no such folder.
        """
        from fashiongen.data.check_pairs import check_pairs

        return check_pairs(cls, root)

    def list_of(self, split: str) -> Path:
        """Return the file that lists a split.

        Raises:
            UserError: if it is missing.
        """
        for name in self.lists[split]:
            for folder in (self.root / LISTS, self.root):
                if (folder / name).is_file():
                    return folder / name
        wanted = self.root / LISTS / self.lists[split][0]
        raise UserError(
            f"{self.layout}: {wanted} is missing, which lists the {split} pairs; set data.init_args.root to the dataset's folder"
        )

    def setup(self, stage: str | None = None) -> None:
        """Read the lists of the splits of `stage` (fit, validate, test, predict; None: all) and find the images.

        Raises:
            UserError: if the folder, a list, or any image that a list names is missing.
        """
        self.find_root()
        splits = splits_of(stage)
        self.rows = {}
        for split in splits:
            self._files[split] = self.list_of(split)
            self.rows[split] = read_rows(self._files[split])
        found = find_images(self.root / IMAGES) if self.images else None
        if found is not None:
            for split, rows in self.rows.items():
                self._require(split, rows, found)
        truth = read_truth(self.root / TRUTH) if self.embedded else None
        self._items = {"images": found, "truth": truth, "size": self.size, "in_memory": self.in_memory}
        self.datasets = {split: self._dataset(split) for split in splits}
        self.split = splits[0]
        offered = {"images": found is not None, "attributes": truth is not None}
        self.offers = frozenset(name for name, there in offered.items() if there)

    def _dataset(self, split: str) -> PairDataset | QueryDataset:
        if split == "test":
            return QueryDataset(self.rows["test"], **self._items)
        return PairDataset(self.rows[split], self.on_error if split == "train" else "fail", **self._items)

    def _require(self, split: str, rows: list[PairRow], found: dict[str, Path]) -> None:
        named = dict.fromkeys(id_ for row in rows for id_ in (row.top, row.bottom, *(row.negatives if split == "test" else ())))
        if absent := [id_ for id_ in named if id_ not in found]:
            place = self.root / IMAGES / f"{absent[0]}{ENDINGS[0]}"
            raise UserError(
                f"{self.layout}: {len(absent)} of the {len(named)} images that {self._files[split]} names are missing, first {place}; "
                "restore them, remove their lines, or set data.init_args.images=false for a method that needs none"
            )

    def train_dataloader(self) -> ResumableLoader:
        """Return the training batches, shuffled by (seed, epoch), resumable mid-epoch."""
        return self.training_loader(self.datasets["train"], "pairs", collate_fn=collate_readable)

    def val_dataloader(self) -> Loader:
        """Return the validation pairs, in order, for a method's validation loss."""
        return self.evaluation_loader(self.datasets["val"], block=1)

    def test_dataloader(self) -> Loader:
        """Return the test tops, in order, each row once."""
        return self.evaluation_loader(self.datasets["test"], block=self.eval_batch_size)

    def predict_dataloader(self) -> Loader:
        """Return the test tops, in order, each row once."""
        return self.test_dataloader()

    def catalogue(self, split: str = "test") -> CatalogueDataset:
        """Return the bottoms of a split, each once."""
        return CatalogueDataset(self.rows[split], **self._items)

    def catalogue_dataloader(self, split: str = "test") -> Loader:
        """Return this process's share of the distinct bottoms of a split, for methods to embed."""
        return self.evaluation_loader(self.catalogue(split), block=self.eval_batch_size)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401  Lightning's own signature
        """Count and report skipped samples."""
        for reason in getattr(batch, "skipped", None) or ():
            self.skipped.append(reason)
            rank_zero_warn(f"left out of training (number {len(self.skipped)} so far): {reason}")
        return batch

    def teardown(self, stage: str) -> None:
        """Report the number of skipped samples."""
        if stage == "fit" and self.skipped:
            rank_zero_warn(f"{len(self.skipped)} times a pair was left out of training because an image could not be read")

    def fingerprint(self) -> str:
        """Return a sha256 over the current split's list and the names and sizes of its existing images.

        It identifies the folder's content, whether or not this run reads images: a baseline that uses none is tested on the same data.
        """
        digest = hashlib.sha256(self._files[self.split].read_bytes())
        images = self._items["images"]
        if images is None:
            images = find_images(self.root / IMAGES) if (self.root / IMAGES).is_dir() else {}
        rows = self.rows[self.split]
        named = {id_ for row in rows for id_ in (row.top, row.bottom, *(row.negatives if self.split == "test" else ()))}
        for id_ in sorted(named & images.keys()):
            digest.update(f"\0{images[id_].name}\0{images[id_].stat().st_size}".encode())
        return digest.hexdigest()

    def sample_names(self) -> dict[str, dict[str, str]]:
        """Return each row's id; it has no image of its own."""
        return {row.id: {} for row in self.rows[self.split]}

    def describe(self) -> dict[str, Any]:
        """Return what is read, for a log: name, root, size; per split rows, tops, bottoms; what is offered."""
        counts = {
            split: {"rows": len(rows), "tops": len({row.top for row in rows}), "bottoms": len({row.bottom for row in rows})}
            for split, rows in self.rows.items()
        }
        return {"name": self.name, "root": str(self.root), "size": list(self.size), "splits": counts, "offers": sorted(self.offers)}


def find_images(folder: Path) -> dict[str, Path]:
    """Return the images in a folder by id, the file's stem; of several the first of .jpg, .jpeg, .png.

    Raises:
        UserError: if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is missing, which holds the images; set data.init_args.root to the dataset's folder")
    found: dict[str, Path] = {}
    for ending in reversed(ENDINGS):
        found |= {name[: -len(ending)]: folder / name for name in sorted(os.listdir(folder)) if name.lower().endswith(ending)}
    return found


def read_truth(path: Path) -> dict[str, dict[str, str]]:
    """Return the true attributes of the wardrobe's items, by id."""
    items = [json.loads(line) for line in read_lines(path)]
    return {item["id"]: {"category": item["category"], **item["attributes"]} for item in items}
