"""VITON-HD (Choi et al., CVPR 2021; also `zalando-hd-resized`): women's upper-body garments, one person and one shop picture a sample.

    ROOT/train_pairs.txt  test_pairs.txt        "person.jpg cloth.jpg" a line
    ROOT/{train,test}/image/00006_00.jpg        the person
                      cloth/00006_00.jpg        the shop picture, on white
                      cloth-mask/00006_00.jpg   its foreground
                      agnostic-mask/00006_00_mask.png         white where the garment may be
                      image-parse-v3/00006_00.png             LIP labels
                      openpose_json/00006_00_keypoints.json   25 key points

Both pair files are mismatched in their second column: they were made for dressing a person in another garment. A person's own garment is
the picture of the same name, so that samples here are always (person, garment of that name) and the second column is not used.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fashiongen.batches import TryOffBatch
from fashiongen.data.cache import EMBEDDED, embedded_folder, render_once
from fashiongen.data.loading import EpochSampler, Loader, ResumableLoader, ShardSampler, share
from fashiongen.data.quality import QualityFilter
from fashiongen.data.reframe import reframe
from fashiongen.data.tryon import (
    Size,
    TryOnRow,
    open_picture,
    picture_to_tensor,
    read_labels,
    read_mask,
    read_openpose,
    read_pairs,
    read_picture,
)
from fashiongen.errors import UserError

KEYPOINTS = 25

# For each part the folders and the endings (after the person's stem; "" is the name as it is) under which copies of the data set keep it.
PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "person": (("image", ""),),
    "garment": (("cloth", ""),),
    "garment_mask": (("cloth-mask", ""), ("cloth-mask", ".png"), ("cloth_mask", ""), ("cloth_mask", ".png")),
    "mask": (("agnostic-mask", "_mask.png"), ("agnostic-mask", ".png"), ("agnostic_mask", "_mask.png"), ("agnostic_mask", ".png")),
    "parse": (("image-parse-v3", ".png"), ("image-parse", ".png")),
    "pose": (("openpose_json", "_keypoints.json"), ("openpose-json", "_keypoints.json")),
}
FOLDERS = {"train": "train", "val": "train", "test": "test"}
STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


class VITONHDDataset(Dataset[TryOffBatch]):
    """Samples as batches of one, at one size."""

    def __init__(self, rows: Sequence[TryOnRow], size: Size, *, zooms: dict[str, float] | None = None, in_memory: bool = False) -> None:
        """Read `rows` at `size` (height, width).

        Args:
            rows: the samples; all of them offer the same parts, the mask among them.
            size: height and width.
            zooms: for some ids the factor by which the person is scaled (see `reframe`).
            in_memory: keep each sample once it is decoded.
        """
        self.rows = list(rows)
        self.size = size
        self.zooms = zooms or {}
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
            return self._read(self.rows[index])
        if index not in self._kept:
            self._kept[index] = self._read(self.rows[index])
        return self._kept[index]

    def _read(self, row: TryOnRow) -> TryOffBatch:
        if row.mask is None:
            raise UserError(f"viton_hd: sample {row.id} has no agnostic mask")
        picture = open_picture(row.person)
        source = (picture.height, picture.width)
        sample = TryOffBatch(
            ids=[row.id],
            person=picture_to_tensor(picture, self.size)[None],
            mask=read_mask(row.mask, self.size)[None],
            category=["upper"],
            parse=_with_batch(read_labels(row.parse, self.size) if row.parse else None),
            pose=_with_batch(read_openpose(row.pose, KEYPOINTS, source, self.size) if row.pose else None),
            garment=_with_batch(read_picture(row.garment, self.size) if row.garment else None),
            garment_mask=_with_batch(read_mask(row.garment_mask, self.size) if row.garment_mask else None),
        )
        zoom = self.zooms.get(row.id, 1.0)
        return sample if zoom == 1.0 else reframe(sample, zoom)


def _with_batch(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor[None]


class VITONHD(L.LightningDataModule):
    """VITON-HD for garment restoration (`TryOffBatch`), paired in training and test alike.

    Splits: the pairs of `train_pairs.txt` less `validation` of them that are never trained on, those held-out pairs, and the pairs of
    `test_pairs.txt`, which `predict` uses as well. A sample's id is the stem of its person picture.

    Attributes:
        name: the layout's name.
        split: the split of the last `setup`: train, val or test.
        offers: the parts that the folder holds: mask, and where present garment, garment_mask, parse, pose.
    """

    name = "viton_hd"

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
        quality: QualityFilter | None = None,
        in_memory: bool = False,
    ) -> None:
        """Say what to read; nothing is read before `setup`.

        Args:
            root: folder with `train_pairs.txt` and `test_pairs.txt`, or `wardrobe` for the embedded world, rendered on first use.
            people: number of people of the embedded world, train and test together.
            world_seed: seed of the embedded world.
            size: height and width that pictures are resized to.
            batch_size: training samples per process and step.
            eval_batch_size: samples per process and step in validation, test and prediction; by default `batch_size`.
            num_workers: worker processes per loader.
            seed: seed of the training order.
            validation: number of pairs of `train_pairs.txt` that are held out for validation; the same ones for any seed.
            quality: trains on good pairs only.
            in_memory: keeps the decoded samples in memory, in the main process (no workers).
        """
        super().__init__()
        if min(size) < 1 or batch_size < 1 or (eval_batch_size or 1) < 1 or validation < 0:
            raise UserError("viton_hd: size, batch_size and eval_batch_size must be at least 1, validation at least 0")
        self.root = embedded_folder(self.name, people, size, world_seed) if root == EMBEDDED else Path(root).expanduser()
        self.embedded = root == EMBEDDED
        self.people = people
        self.world_seed = world_seed
        self.size = size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = 0 if in_memory else num_workers
        self.seed = seed
        self.validation = validation
        self.quality = quality
        self.in_memory = in_memory
        self.split = "train"
        self.offers: frozenset[str] = frozenset()
        self.datasets: dict[str, VITONHDDataset] = {}
        # A test set smaller than the number of processes leaves some without a sample.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def prepare_data(self) -> None:
        """Render the embedded world unless it is there (one process per machine calls this)."""
        if self.embedded:
            from fashiongen.wardrobe import write_viton_hd

            render_once(self.root, lambda folder: write_viton_hd(folder, people=self.people, size=self.size, seed=self.world_seed))

    def setup(self, stage: str | None = None) -> None:
        """Find the files of the splits of `stage` (fit, validate, test, predict; None: all).

        Raises:
            UserError: if the folder, a pair file, the agnostic masks or any sample's file is missing; each is named.
        """
        self.prepare_data()
        splits = STAGES[stage] if stage else tuple(FOLDERS)
        rows: dict[str, list[TryOnRow]] = {}
        for folder in dict.fromkeys(FOLDERS[split] for split in splits):
            rows |= self._rows(folder)
        zooms: dict[str, float] = {}
        if self.quality is not None and "train" in splits:
            good = self.quality.select([*rows["train"], *rows["val"]])
            rows["train"] = [row for row in rows["train"] if row.id in good]
            zooms = good
        for split in splits:
            if not rows[split] and split != "val":
                raise UserError(f"viton_hd: no {split} sample is left; check {self._pairs(split)} and data.quality")
            if split != "test" and any(row.garment is None for row in rows[split]):
                raise UserError(f"viton_hd: {self.root / FOLDERS[split]} has no folder cloth: training needs the shop pictures")
            self.datasets[split] = VITONHDDataset(
                rows[split], self.size, zooms=zooms if split == "train" else None, in_memory=self.in_memory
            )
        self.split = splits[0]
        self.offers = frozenset.intersection(*(_offered(rows[split]) for split in splits if rows[split]))

    def _pairs(self, split: str) -> Path:
        return self.root / f"{FOLDERS[split]}_pairs.txt"

    def _rows(self, folder: str) -> dict[str, list[TryOnRow]]:
        pairs = self._pairs(folder)
        if not pairs.is_file():
            raise UserError(f"viton_hd: {pairs} is missing: data.root must be a folder in the VITON-HD layout, or `wardrobe`")
        names = [person for person, _ in read_pairs(pairs)]
        stems = [PurePosixPath(name).stem for name in names]
        if len(set(stems)) < len(stems):
            repeated = next(stem for stem in stems if stems.count(stem) > 1)
            raise UserError(f"{pairs}: the person {repeated} is listed more than once; ids must be unique, take the repeats out")
        found = {part: self._find(part, folder, names) for part in PLACES}
        if found["person"] is None:
            raise UserError(f"viton_hd: {self.root / folder / 'image'} is missing or holds none of the people of {pairs}")
        if found["mask"] is None:
            raise UserError(
                f"viton_hd: {self.root / folder / 'agnostic-mask'} is missing or holds no mask of the people of {pairs}: "
                "some copies of the data set come without it; add the agnostic masks (STEM_mask.png, white where the garment may be)"
            )
        files = {part: paths for part, paths in found.items() if paths is not None}
        rows = [TryOnRow(id=stem, **{part: paths[index] for part, paths in files.items()}) for index, stem in enumerate(stems)]
        if folder == "test":
            return {"test": rows}
        if self.validation >= len(rows):
            raise UserError(f"viton_hd: data.validation={self.validation} leaves nothing of the {len(rows)} pairs of {pairs} to train on")
        held_out = set(sorted(stems, key=lambda stem: hashlib.sha256(stem.encode()).digest())[: self.validation])
        return {"train": [row for row in rows if row.id not in held_out], "val": [row for row in rows if row.id in held_out]}

    def _find(self, part: str, folder: str, names: list[str]) -> list[Path] | None:
        """Return one path a name from the place that holds most of them, None if no place holds any."""
        best: tuple[int, list[Path], set[str]] | None = None
        for place, ending in PLACES[part]:
            here = self.root / folder / place
            present = set(os.listdir(here)) if here.is_dir() else set()
            files = [PurePosixPath(name).stem + ending if ending else name for name in names]
            count = sum(file in present for file in files)
            if count and (best is None or count > best[0]):
                best = (count, [here / file for file in files], present)
        if best is None:
            return None
        count, paths, present = best
        if count < len(names):
            first = next(path for path in paths if path.name not in present)
            raise UserError(
                f"viton_hd: {len(names) - count} of {len(names)} samples of {self.root / folder} lack their {part}, first {first}; "
                f"restore the files or take their lines out of {self._pairs(folder)}"
            )
        return paths

    def train_dataloader(self) -> ResumableLoader:
        """Give the training batches, shuffled by (seed, epoch), resumable in mid-epoch."""
        dataset, shard = self.datasets["train"], share(self.trainer)
        if len(dataset) < self.batch_size * shard["num_replicas"]:
            step = f"{shard['num_replicas']} x {self.batch_size}"
            raise UserError(f"viton_hd: {len(dataset)} training samples do not fill one step of {step}; lower data.batch_size")
        sampler = EpochSampler(dataset, seed=self.seed, **shard)
        trained = self._trained if self.trainer else None
        return ResumableLoader(dataset, sampler=sampler, batch_size=self.batch_size, trained=trained, **self._options())

    def val_dataloader(self) -> Loader | list[Loader]:
        """Give the held-out training pairs, in order; nothing where `validation` is 0."""
        return self._evaluation("val") if len(self.datasets["val"]) else []

    def test_dataloader(self) -> Loader:
        """Give the test pairs, in order, each once."""
        return self._evaluation("test")

    def predict_dataloader(self) -> Loader:
        """Give the test pairs, in order, each once."""
        return self._evaluation("test")

    def _evaluation(self, split: str) -> Loader:
        dataset = self.datasets[split]
        return Loader(dataset, sampler=ShardSampler(dataset, **share(self.trainer)), batch_size=self.eval_batch_size, **self._options())

    def _options(self) -> dict[str, Any]:
        return {"num_workers": self.num_workers, "persistent_workers": self.num_workers > 0, "pin_memory": torch.cuda.is_available()}

    def _trained(self) -> int:
        assert self.trainer is not None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return int(progress.state_dict()["processed"])

    def fingerprint(self) -> str:
        """Return a sha256 over the names and sizes of the current split's files and the content of its pair file."""
        digest = hashlib.sha256(self._pairs(self.split).read_bytes())
        files = [file for row in self.datasets[self.split].rows for file in row.files()]
        for line in sorted(f"\0{file.relative_to(self.root).as_posix()}\0{file.stat().st_size}" for file in files):
            digest.update(line.encode())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what is read, for a log: name, root, size, number of samples per split and the parts offered."""
        counts = {split: len(dataset) for split, dataset in self.datasets.items()}
        return {"name": self.name, "root": str(self.root), "size": list(self.size), "samples": counts, "offers": sorted(self.offers)}


def _offered(rows: Sequence[TryOnRow]) -> frozenset[str]:
    """Return the parts beside the person that a split's rows hold; rows of one split hold the same ones."""
    return frozenset(part for part in PLACES if part != "person" and getattr(rows[0], part) is not None)
