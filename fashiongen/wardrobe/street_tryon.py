"""Writes a world of people with the exact folder layout, file names, labels and pair format of StreetTryOn."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from fashiongen.wardrobe.layouts import Truth, mismatched, save_jpeg, split_numbers, truth_of, write_layout, writes
from fashiongen.wardrobe.people import VITON_CATEGORIES, make_person
from fashiongen.wardrobe.portrait import render_densepose_iuv, render_person
from fashiongen.wardrobe.world import Stream

# The dataset's folder for each namespace of the embedded world: it calls its held-out people `validation`.
FOLDER_OF = {"train": "train", "test": "validation"}
FOLDERS: tuple[str, ...] = ("image", "densepose", "segm_atr_labels", "raw_bbox")
CATEGORIES: dict[str, tuple[str, ...]] = {"top": VITON_CATEGORIES, "dress": ("dress", "jumpsuit")}
# Different people from the other layouts', so that one can be used for training and the other for testing.
FIRST_PERSON = 500_000


@dataclass(frozen=True)
class _Job:
    """One person to write; the split is also the namespace."""

    split: str
    number: int

    @property
    def stem(self) -> str:
        """The file name without its suffix, such as 000006."""
        return f"{self.number:06d}"

    @property
    def category(self) -> str:
        """Every third person wears a dress."""
        return "dress" if self.number % 3 == 2 else "top"


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
    return write_layout(
        Path(root),
        "street_tryon",
        jobs,
        partial(_write_person, size, seed),
        partial(_write_lists, jobs, seed),
        ["annotations", *(f"{split}/{folder}" for split in FOLDER_OF.values() for folder in FOLDERS)],
        {"seed": seed, "size": list(size), "people": people, "test_fraction": test_fraction},
        workers,
    )


def _write_lists(jobs: list[_Job], seed: int, root: Path) -> None:
    """Write the lists of images, and the pair files: number, garment (another person's image), person."""
    for split, folder in FOLDER_OF.items():
        text = "".join(f"{job.stem}.jpg\n" for job in jobs if job.split == split)
        (root / "annotations" / f"{folder}_image_list.txt").write_text(text, encoding="utf-8")
    for category in CATEGORIES:
        names = [f"{job.stem}.jpg" for job in jobs if (job.split, job.category) == ("test", category)]
        garments = mismatched(names, Stream(seed, "test", f"street-pairs-{category}", 0))
        _write_csv(root / "annotations" / f"street2street_test_pairs_{category}.csv", garments, names)
        if category == "top":
            tests = [f"{job.number:05d}_00.jpg" for job in jobs if job.split == "test"]
            shop = [tests[(index + 1) % len(tests)] for index in range(len(names))]
            _write_csv(root / "annotations" / "shop2street_test_pairs_top.csv", shop, names)


def _write_csv(path: Path, garments: list[str], persons: list[str]) -> None:
    lines = [f"{index},{garment},{person}\n" for index, (garment, person) in enumerate(zip(garments, persons, strict=True))]
    path.write_text("".join(["idx,garment,person\n", *lines]), encoding="utf-8")


def _write_person(size: tuple[int, int], seed: int, root: Path, job: _Job) -> Truth:
    """Write all files of one person and return its ground truth."""
    person = make_person(seed, job.split, FIRST_PERSON + job.number, CATEGORIES[job.category])
    images = render_person(person, *size)
    folder, stem = root / FOLDER_OF[job.split], job.stem
    save_jpeg(folder / "image" / f"{stem}.jpg", images.image)
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
