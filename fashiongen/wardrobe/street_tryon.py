"""Writes a world of people with the exact folder layout, file names, labels and pair format of StreetTryOn."""

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from fashiongen.wardrobe.layouts import Truth, mismatched, save_jpeg, split_numbers, truth_of, write_layout, writes
from fashiongen.wardrobe.people import VITON_CATEGORIES, make_person
from fashiongen.wardrobe.portrait import render_densepose_iuv, render_dressed, render_person
from fashiongen.wardrobe.world import Stream

# The dataset's folder for each namespace of the embedded world: it calls its held-out people `validation`.
FOLDER_OF = {"train": "train", "test": "validation"}
FOLDERS: tuple[str, ...] = ("image", "densepose", "segm_atr_labels", "raw_bbox")
# The people of the pair files in the other garments, PERSON_GARMENT.jpg: the truth of an unpaired try-on, which no public dataset has.
UNPAIRED = "validation/image-unpaired"
CATEGORIES: dict[str, tuple[str, ...]] = {"top": VITON_CATEGORIES, "dress": ("dress", "jumpsuit")}
# Different people from the other layouts', so that one can be used for training and the other for testing.
FIRST_PERSON = 500_000


@dataclass(frozen=True)
class _Job:
    """One person to write; the split is also the namespace.

    `others` are the garments that the pair files put on the person: the stem of their image, and the number of who wears them.
    """

    split: str
    number: int
    others: tuple[tuple[str, int], ...] = ()

    @property
    def stem(self) -> str:
        """The file name without its suffix, such as 000006."""
        return f"{self.number:06d}"

    @property
    def category(self) -> str:
        """Every third person wears a dress."""
        return "dress" if self.number % 3 == 2 else "top"


class _Pair(NamedTuple):
    """A line of a pair file: the garment's image, the number of the person who wears it, and the image of the person to dress."""

    garment: str
    wearer: int
    person: str


@writes("street_tryon")
def write_street_tryon(
    root: str | Path, people: int, size: tuple[int, int], seed: int, test_fraction: float = 0.15, workers: int | None = None
) -> Path:
    """Write `people` people of `size` (height, width) as StreetTryOn into the new folder `root` and return it.

    As in the dataset itself, there are no shop images, masks or key points. The folder appears under its name only when it is complete.
    Training people come from the namespace `train`, those of `validation` from `test`. The garments of `shop2street_test_pairs_top.csv` are
    those of the test people that `write_viton_hd` draws with the same numbers.

    Raises:
        UserError: if `root` is not empty, or a split would have fewer than six people (two dresses).
    """
    jobs = [_Job(split, number) for split, numbers in split_numbers(people, test_fraction, least=6).items() for number in numbers]
    lists = _pair_lists([job for job in jobs if job.split == "test"], seed)
    others: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for pairs in lists.values():
        for pair in pairs:
            others[pair.person].append((PurePosixPath(pair.garment).stem, pair.wearer))
    jobs = [replace(job, others=tuple(others[f"{job.stem}.jpg"])) if job.split == "test" else job for job in jobs]
    return write_layout(
        Path(root),
        "street_tryon",
        jobs,
        partial(_write_person, size, seed),
        partial(_write_lists, jobs, lists),
        ["annotations", *(f"{split}/{folder}" for split in FOLDER_OF.values() for folder in FOLDERS), UNPAIRED],
        {"seed": seed, "size": list(size), "people": people, "test_fraction": test_fraction},
        workers,
    )


def _pair_lists(tests: list[_Job], seed: int) -> dict[str, list[_Pair]]:
    """Return the unpaired tests by the name of their pair file: another person's garment, or a shop image of VITON-HD's."""
    lists = {}
    for category in CATEGORIES:
        here = [job for job in tests if job.category == category]
        names = [f"{job.stem}.jpg" for job in here]
        wearers = {f"{job.stem}.jpg": FIRST_PERSON + job.number for job in here}
        garments = mismatched(names, Stream(seed, "test", f"street-pairs-{category}", 0))
        pairs = [_Pair(garment, wearers[garment], person) for garment, person in zip(garments, names, strict=True)]
        lists[f"street2street_test_pairs_{category}.csv"] = pairs
        if category == "top":
            shop = [tests[(index + 1) % len(tests)].number for index in range(len(names))]
            pairs = [_Pair(f"{number:05d}_00.jpg", number, person) for number, person in zip(shop, names, strict=True)]
            lists["shop2street_test_pairs_top.csv"] = pairs
    return lists


def _write_lists(jobs: list[_Job], lists: dict[str, list[_Pair]], root: Path) -> None:
    """Write the lists of images, and the pair files: number, garment, person."""
    for split, folder in FOLDER_OF.items():
        text = "".join(f"{job.stem}.jpg\n" for job in jobs if job.split == split)
        (root / "annotations" / f"{folder}_image_list.txt").write_text(text, encoding="utf-8")
    for name, pairs in lists.items():
        lines = [f"{index},{pair.garment},{pair.person}\n" for index, pair in enumerate(pairs)]
        (root / "annotations" / name).write_text("".join(["idx,garment,person\n", *lines]), encoding="utf-8")


def _write_person(size: tuple[int, int], seed: int, root: Path, job: _Job) -> Truth:
    """Write all files of one person and return its ground truth."""
    person = make_person(seed, job.split, FIRST_PERSON + job.number, CATEGORIES[job.category])
    images = render_person(person, *size)
    folder, stem = root / FOLDER_OF[job.split], job.stem
    save_jpeg(folder / "image" / f"{stem}.jpg", images.image)
    for other, wearer in job.others:
        garment = make_person(seed, job.split, wearer, CATEGORIES[job.category]).garment
        save_jpeg(root / UNPAIRED / f"{stem}_{other}.jpg", render_dressed(person, garment, *size))
    Image.fromarray(images.parse_atr).save(folder / "segm_atr_labels" / f"{stem}.png")
    # OpenCV wrote the dataset's maps, so their first channel is the file's blue channel.
    iuv = render_densepose_iuv(person, *size)
    Image.fromarray(np.ascontiguousarray(iuv[:, :, ::-1])).save(folder / "densepose" / f"{stem}_densepose.png")
    # The crop in DeepFashion2's image: rows first.
    stream = Stream(seed, job.split, "street-box", job.number)
    top, left = int(stream.number(0, size[0] / 2)), int(stream.number(0, size[1] / 2))
    box = {"human_bbox": [top, top + size[0], left, left + size[1]]}
    (folder / "raw_bbox" / f"{stem}.jpg.json").write_text(json.dumps(box), encoding="utf-8")
    return {"split": job.split, "folder": FOLDER_OF[job.split], "stem": stem, **truth_of(person)}
