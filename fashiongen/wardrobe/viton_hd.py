"""Writes a world of people with the exact folder layout, file names, palette and pair format of VITON-HD."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image

from fashiongen.wardrobe.draw import render_item, render_item_mask
from fashiongen.wardrobe.layouts import (
    SPLITS,
    Truth,
    black_and_white,
    mismatched,
    save_jpeg,
    save_palette,
    split_numbers,
    truth_of,
    write_layout,
    writes,
)
from fashiongen.wardrobe.people import make_person
from fashiongen.wardrobe.portrait import PersonImages, render_dressed, render_person
from fashiongen.wardrobe.world import Stream

FOLDERS: tuple[str, ...] = (
    *("image", "cloth", "cloth-mask", "agnostic-v3.2", "agnostic-mask", "image-parse-v3", "image-parse-agnostic-v3.2"),
    *("openpose_img", "openpose_json", "image-densepose"),
)
# The test people in the garments of test_pairs.txt: the truth of an unpaired try-on, which no public dataset has.
UNPAIRED = "image-unpaired"
# The colours of LIP's twenty classes, as in the dataset's own palette images.
LIP_PALETTE: tuple[tuple[int, int, int], ...] = (
    *((0, 0, 0), (128, 0, 0), (255, 0, 0), (0, 85, 0), (170, 0, 51), (255, 85, 0), (0, 0, 85), (0, 119, 221), (85, 85, 0), (0, 85, 85)),
    *((85, 51, 0), (52, 86, 128), (0, 128, 0), (0, 0, 255), (51, 170, 221), (0, 255, 255), (85, 255, 170), (170, 255, 85), (255, 255, 0)),
    (255, 170, 0),
)


@dataclass(frozen=True)
class _Job:
    """One person to write; the split is also the namespace, and the number is part of the file names. `other` wears the other garment."""

    split: str
    number: int
    other: int

    @property
    def stem(self) -> str:
        """The file name without its suffix, such as 00006_00."""
        return f"{self.number:05d}_00"


@writes("viton_hd")
def write_viton_hd(
    root: str | Path, people: int, size: tuple[int, int], seed: int, test_fraction: float = 0.15, workers: int | None = None
) -> Path:
    """Write `people` people of `size` (height, width) as VITON-HD into the new folder `root` and return it.

    The folder appears under its name only when it is complete. Training people come from the namespace `train`, test people from `test`.

    Raises:
        UserError: if `root` is not empty, or a split would have fewer than two people.
    """
    jobs = [
        _Job(split, number, int(other))
        for split, numbers in split_numbers(people, test_fraction).items()
        for number, other in zip(numbers, mismatched([*map(str, numbers)], Stream(seed, split, "pairs", 0)), strict=True)
    ]
    return write_layout(
        Path(root),
        "viton_hd",
        jobs,
        partial(_write_person, size, seed),
        partial(_write_pairs, jobs),
        [*(f"{split}/{folder}" for split in SPLITS for folder in FOLDERS), f"test/{UNPAIRED}"],
        {"seed": seed, "size": list(size), "people": people, "test_fraction": test_fraction},
        workers,
    )


def _write_pairs(jobs: list[_Job], root: Path) -> None:
    """Write the pair files of both splits: each person with another person's garment."""
    for split in SPLITS:
        text = "".join(f"{job.stem}.jpg {replace(job, number=job.other).stem}.jpg\n" for job in jobs if job.split == split)
        (root / f"{split}_pairs.txt").write_text(text, encoding="utf-8")


def _write_person(size: tuple[int, int], seed: int, root: Path, job: _Job) -> Truth:
    """Write all files of one person and return its ground truth."""
    person = make_person(seed, job.split, job.number)
    images = render_person(person, *size)
    folder, stem = root / job.split, job.stem
    save_jpeg(folder / "image" / f"{stem}.jpg", images.image)
    save_jpeg(folder / "cloth" / f"{stem}.jpg", render_item(person.garment, *size))
    save_jpeg(folder / "cloth-mask" / f"{stem}.jpg", black_and_white(render_item_mask(person.garment, *size)))
    save_jpeg(folder / "agnostic-v3.2" / f"{stem}.jpg", images.agnostic)
    save_jpeg(folder / "image-densepose" / f"{stem}.jpg", images.densepose)
    Image.fromarray(black_and_white(images.agnostic_mask)).save(folder / "agnostic-mask" / f"{stem}_mask.png")
    Image.fromarray(images.openpose).save(folder / "openpose_img" / f"{stem}_rendered.png")
    save_palette(folder / "image-parse-v3" / f"{stem}.png", images.parse, LIP_PALETTE)
    save_palette(folder / "image-parse-agnostic-v3.2" / f"{stem}.png", images.parse_agnostic, LIP_PALETTE)
    (folder / "openpose_json" / f"{stem}_keypoints.json").write_text(_keypoints_json(images), encoding="utf-8")
    if job.split == "test":
        save_jpeg(folder / UNPAIRED / f"{stem}.jpg", render_dressed(person, make_person(seed, job.split, job.other).garment, *size))
    return {"split": job.split, "stem": stem, **truth_of(person)}


def _keypoints_json(images: PersonImages) -> str:
    """OpenPose's file for one person."""
    flat = [round(float(value), 3) for value in images.keypoints.reshape(-1)]
    return json.dumps({"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": flat}]})
