"""The reader of tops with their bottoms: what FashionVC, ExpReduced and FashionTaobaoTB share (GeCo's lists and folder).

A split is one CSV file of rows (top, the bottom worn with it, its listed negatives); all images lie in one folder and are named after the
ids. Sizes are (height, width); an image of other proportions is squeezed, as the authors' code does.
"""

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset

from fashiongen.batches import Batch, CandidateBatch, PairBatch, QueryBatch
from fashiongen.data.cache import EMBEDDED, embedded_folder, render_once
from fashiongen.data.images import read_image
from fashiongen.data.listing import leaves_root, locate, read_lines
from fashiongen.data.loading import Loader, LoadingData, ResumableLoader, collate
from fashiongen.errors import UserError
from fashiongen.wardrobe.layouts import TRUTH

Size = tuple[int, int]
OnError = Literal["fail", "skip"]

TOP, BOTTOM, NEGATIVE = "tshirt", "positive_pant", "neg_"
IMAGES = "img"
ENDINGS = (".jpg", ".jpeg", ".png")
STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


@dataclass(frozen=True, slots=True)
class PairRow:
    """One line of a list.

    Attributes:
        id: unique in its split.
        top: id of the top.
        bottom: id of the bottom worn with it.
        negatives: the bottoms that the list names as negatives, in its order.
    """

    id: str
    top: str
    bottom: str
    negatives: tuple[str, ...] = ()


def read_rows(path: Path) -> list[PairRow]:
    """Read a list of tops and bottoms: CSV with a heading, columns found by name; blank lines are skipped.

    Raises:
        UserError: if the file is missing, no text or empty, a column is not there, a line is too short, or an id leads elsewhere.
    """
    lines = csv.reader(read_lines(path))
    heading = [name.strip() for name in next(lines, [])]
    if missing := [name for name in (TOP, BOTTOM) if name not in heading]:
        raise UserError(f"{path}: has no column {' and no column '.join(missing)}; its heading is: {','.join(heading) or 'empty'}")
    top, bottom = heading.index(TOP), heading.index(BOTTOM)
    negatives = [index for index, name in enumerate(heading) if name.startswith(NEGATIVE)]
    rows: list[PairRow] = []
    seen: Counter[str] = Counter()
    for number, line in enumerate(lines, start=2):
        cells = [cell.strip() for cell in line]
        if not any(cells):
            continue
        if len(cells) < len(heading):
            raise UserError(f"{path}, line {number}: has {len(cells)} columns where {len(heading)} are wanted: {','.join(cells)!r}")
        named = (cells[top], cells[bottom], *(cells[index] for index in negatives))
        for name in named:
            if not name or leaves_root(name) or "/" in name or "\\" in name:
                raise UserError(f"{path}, line {number}: {name!r} is no id of an item; take the line out")
        id_ = f"{named[0]}_{named[1]}"
        seen[id_] += 1
        rows.append(PairRow(id_ if seen[id_] == 1 else f"{id_}_{seen[id_]}", named[0], named[1], named[2:]))
    if not rows:
        raise UserError(f"{path}: lists no pair")
    return rows


class _Items(Dataset[Any]):
    """Reads the images of rows, and the wardrobe's truth where it is known."""

    def __init__(self, images: dict[str, Path] | None, truth: dict[str, dict[str, str]] | None, size: Size, in_memory: bool) -> None:
        """Read from `images` by id (None: only the lists) at `size`; `in_memory` keeps what is decoded."""
        self.images = images
        self.truth = truth
        self.size = size
        self._kept: dict[str, Tensor] | None = {} if in_memory else None

    def image(self, id_: str) -> Tensor | None:
        """Read an item's image, (1, 3, H, W) uint8."""
        if self.images is None:
            return None
        if self._kept is not None and id_ in self._kept:
            return self._kept[id_]
        image = read_image(self.images[id_], self.size)[None]
        if self._kept is not None:
            self._kept[id_] = image
        return image

    def attributes(self, id_: str) -> list[dict[str, str]] | None:
        """Return what the wardrobe knows about an item; None for real data."""
        return None if self.truth is None else [self.truth[id_]]


class PairDataset(_Items):
    """Training rows as `PairBatch` of one; with `on_error="skip"` a row with a damaged image becomes a batch of none that says why."""

    def __init__(self, rows: Sequence[PairRow], on_error: OnError, **items: Any) -> None:  # noqa: ANN401  see _Items
        """Read `rows`."""
        super().__init__(**items)
        self.rows = rows
        self.on_error = on_error
        self.positives = positives_of(rows)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> PairBatch | str:
        """Read one row; where it cannot be read and may be skipped, return the reason."""
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


class QueryDataset(_Items):
    """Evaluation rows as `QueryBatch` of one."""

    def __init__(self, rows: Sequence[PairRow], **items: Any) -> None:  # noqa: ANN401  see _Items
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


class CatalogueDataset(_Items):
    """The bottoms of a split as `CandidateBatch` of one, each once.

    Attributes:
        ids: first the positives in the order of the list, then what is only named as a negative.
        n_positives: how many of them are positives of some top.
    """

    def __init__(self, rows: Sequence[PairRow], **items: Any) -> None:  # noqa: ANN401  see _Items
        """Gather the bottoms of `rows`."""
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


def positives_of(rows: Sequence[PairRow]) -> dict[str, tuple[str, ...]]:
    """Return for each top all bottoms that rows name as worn with it, in their order, each once."""
    positives: dict[str, dict[str, None]] = {}
    for row in rows:
        positives.setdefault(row.top, {})[row.bottom] = None
    return {top: tuple(bottoms) for top, bottoms in positives.items()}


def _collate_readable(samples: Sequence[Batch | str]) -> Batch:
    """Collate what could be read; the batch says what was left out."""
    reasons = [sample for sample in samples if isinstance(sample, str)]
    readable = [sample for sample in samples if not isinstance(sample, str)]
    if not readable:
        raise UserError(f"none of the {len(samples)} samples of a batch can be read, first: {reasons[0]}")
    return replace(collate(readable), skipped=reasons) if reasons else collate(readable)


class TopBottomData(LoadingData):
    """Tops with the bottoms worn with them (`PairBatch` in training and validation, `QueryBatch` and a catalogue in tests).

    Attributes:
        name: the dataset's name in records.
        split: the split of the last `setup`: train, val or test.
        offers: images, unless `images` is False; attributes for the embedded world.
        rows: by split, those of the last `setup`.
        skipped: what training left out because its files are damaged, one message each time.
    """

    task = "retrieval"
    lists: ClassVar[dict[str, tuple[str, ...]]]
    """For each split the names under which copies hold its list, the authors' name first."""

    def __init__(
        self,
        root: str,
        people: int = 2000,
        world_seed: int = 0,
        size: tuple[int, int] = (128, 128),
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 4,
        seed: int = 0,
        in_memory: bool = False,
        images: bool = True,
        on_error: OnError = "fail",
    ) -> None:
        """Say what to read; nothing is read before `setup`.

        Args:
            root: the dataset's folder (`files/` with the lists, `img/` with the images), or `wardrobe` for the embedded world.
            people: number of pairs of the embedded world, all splits together.
            world_seed: seed of the embedded world.
            size: height and width that images are resized to.
            batch_size: training pairs per process and step.
            eval_batch_size: samples per process and step in validation, test and prediction; by default `batch_size`.
            num_workers: worker processes per loader.
            seed: seed of the training order.
            in_memory: keeps the decoded images in memory, in the main process (no workers).
            images: False reads the lists alone, for methods that need no image.
            on_error: what a damaged image does to training: `fail` ends it, `skip` leaves the pair out, counts it and says so. A test
                always fails.
        """
        super().__init__()
        if min(size) < 1 or batch_size < 1 or (eval_batch_size or 1) < 1:
            raise UserError(f"{self.layout}: size, batch_size and eval_batch_size must be at least 1")
        self.name = self.layout
        self.embedded = root == EMBEDDED
        self.root = embedded_folder(self.layout, people, size, world_seed) if self.embedded else Path(root).expanduser()
        self.people = people
        self.world_seed = world_seed
        self.size = size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = 0 if in_memory else num_workers
        self.seed = seed
        self.in_memory = in_memory
        self.images = images
        self.on_error = on_error
        self.split = "train"
        self.offers: frozenset[str] = frozenset()
        self.rows: dict[str, list[PairRow]] = {}
        self.skipped: list[str] = []
        self._items: dict[str, Any] = {}
        self._files: dict[str, Path] = {}
        # A test set smaller than the number of processes leaves some without a sample.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def prepare_data(self) -> None:
        """Render the embedded world unless it is there (one process per machine calls this)."""
        if self.embedded:
            from fashiongen import wardrobe

            write = getattr(wardrobe, f"write_{self.layout}")
            render_once(self.root, lambda folder: write(folder, people=self.people, size=self.size, seed=self.world_seed))

    def list_of(self, split: str) -> Path:
        """Return the file that lists a split.

        Raises:
            UserError: if it is not there.
        """
        for name in self.lists[split]:
            for folder in (self.root / "files", self.root):
                if (folder / name).is_file():
                    return folder / name
        wanted = self.root / "files" / self.lists[split][0]
        raise UserError(
            f"{self.layout}: {wanted} is missing, which lists the {split} pairs; set data.init_args.root to the dataset's folder"
        )

    def setup(self, stage: str | None = None) -> None:
        """Read the lists of the splits of `stage` (fit, validate, test, predict; None: all) and find the images.

        Raises:
            UserError: if the folder, a list, or any image that a list names is missing.
        """
        self.prepare_data()
        self.root = locate(self.root, ("files", IMAGES))
        splits = STAGES[stage] if stage else tuple(self.lists)
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
        self.split = splits[0]
        offered = {"images": found is not None, "attributes": truth is not None}
        self.offers = frozenset(name for name, there in offered.items() if there)

    def _require(self, split: str, rows: list[PairRow], found: dict[str, Path]) -> None:
        named = dict.fromkeys(id_ for row in rows for id_ in (row.top, row.bottom, *(row.negatives if split == "test" else ())))
        if absent := [id_ for id_ in named if id_ not in found]:
            place = self.root / IMAGES / f"{absent[0]}{ENDINGS[0]}"
            raise UserError(
                f"{self.layout}: {len(absent)} of the {len(named)} images that {self._files[split]} names are missing, first {place}; "
                "restore them, take their lines out, or set data.init_args.images=false for a method that needs none"
            )

    def train_dataloader(self) -> ResumableLoader:
        """Give the training batches, shuffled by (seed, epoch), resumable in mid-epoch."""
        dataset = PairDataset(self.rows["train"], self.on_error, **self._items)
        return self.training_loader(dataset, "pairs", collate_fn=_collate_readable)

    def val_dataloader(self) -> Loader:
        """Give the validation pairs, in order, for a method's validation loss."""
        return self.evaluation_loader(PairDataset(self.rows["val"], "fail", **self._items), block=1)

    def test_dataloader(self) -> Loader:
        """Give the test tops, in order, each row once."""
        return self.evaluation_loader(QueryDataset(self.rows["test"], **self._items), block=self.eval_batch_size)

    def predict_dataloader(self) -> Loader:
        """Give the test tops, in order, each row once."""
        return self.test_dataloader()

    def catalogue(self, split: str = "test") -> CatalogueDataset:
        """Return the bottoms of a split, each once."""
        return CatalogueDataset(self.rows[split], **self._items)

    def catalogue_dataloader(self, split: str = "test") -> Loader:
        """Give the bottoms of a split, each once, for methods to embed; every process has its share of them."""
        return self.evaluation_loader(self.catalogue(split), block=self.eval_batch_size)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401  Lightning's own signature
        """Count and report what training left out."""
        for reason in getattr(batch, "skipped", None) or ():
            self.skipped.append(reason)
            rank_zero_warn(f"left out of training (number {len(self.skipped)} so far): {reason}")
        return batch

    def teardown(self, stage: str) -> None:
        """Say how much training left out."""
        if stage == "fit" and self.skipped:
            rank_zero_warn(f"{len(self.skipped)} times a pair was left out of training because an image could not be read")

    def fingerprint(self) -> str:
        """Return a sha256 over the current split's list and the names and sizes of its images, as far as they are there.

        It tells the folder's content, whether this run reads images or not: a baseline that looks at none is tested on the same data.
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

    def describe(self) -> dict[str, Any]:
        """Return what is read, for a log: name, root, size; per split rows, tops, bottoms; what is offered."""
        counts = {
            split: {"rows": len(rows), "tops": len({row.top for row in rows}), "bottoms": len({row.bottom for row in rows})}
            for split, rows in self.rows.items()
        }
        return {"name": self.name, "root": str(self.root), "size": list(self.size), "splits": counts, "offers": sorted(self.offers)}


def find_images(folder: Path) -> dict[str, Path]:
    """Return the images in a folder by id, the name without its ending; of several the first of .jpg, .jpeg, .png.

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
    """Return what the wardrobe knows about its items, by id."""
    items = [json.loads(line) for line in read_lines(path)]
    return {item["id"]: {"category": item["category"], **item["attributes"]} for item in items}
