"""Writes a world of people with the exact folder layout, file names, labels, key points and pair formats of Dress Code."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fashiongen.wardrobe.draw import render_item, render_item_mask
from fashiongen.wardrobe.layouts import Truth, black_and_white, mismatched, save_jpeg, split_numbers, truth_of, write_layout, writes
from fashiongen.wardrobe.people import BOTTOMS, VITON_CATEGORIES, make_person
from fashiongen.wardrobe.portrait import draw_openpose, render_densepose_iuv, render_dressed, render_person
from fashiongen.wardrobe.world import Stream

# In the order of the category numbers in the root's pair files.
CATEGORIES: dict[str, tuple[str, ...]] = {"upper_body": VITON_CATEGORIES, "lower_body": BOTTOMS, "dresses": ("dress", "jumpsuit")}
FOLDERS: tuple[str, ...] = ("images", "keypoints", "skeletons", "label_maps", "dense", "masks")
# The test people in the garments of test_pairs_unpaired.txt: the truth of an unpaired try-on, which no public dataset has.
UNPAIRED = "images-unpaired"
# OpenPose's 18 COCO key points among the 25 of BODY_25, their bones, and the frame (height, width) of their coordinates.
COCO_18 = np.array([0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18])
COCO_BONES: tuple[tuple[int, int], ...] = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
FRAME = (512, 384)


@dataclass(frozen=True)
class _Job:
    """One person to write; the split is also the namespace. `other` wears the garment of the unpaired test."""

    split: str
    category: str
    number: int
    other: int | None = None

    @property
    def stem(self) -> str:
        """The prefix of all files of the person, such as 000006."""
        return f"{self.number:06d}"

    @property
    def names(self) -> tuple[str, str]:
        """The file names of the person's and the garment's image."""
        return f"{self.stem}_0.jpg", f"{self.stem}_1.jpg"


@writes("dress_code")
def write_dress_code(
    root: str | Path, people: int, size: tuple[int, int], seed: int, test_fraction: float = 0.15, workers: int | None = None
) -> Path:
    """Write `people` people of `size` (height, width) as Dress Code into the new folder `root` and return it.

    A third each wear upper-body clothes, lower-body clothes and dresses. The folder appears under its name only when it is complete.
    Training people come from the namespace `train`, test people from `test`. LaDI-VTON's masks of the shop images are written, as the only
    extra that other projects have added to the dataset. As in the dataset itself, there are no agnostic masks.

    Raises:
        UserError: if `root` is not empty, or a split would have fewer than six people (two per category).
    """
    numbered = split_numbers(people, test_fraction, least=2 * len(CATEGORIES))
    categories = list(CATEGORIES)
    jobs = [_Job(split, categories[number % len(categories)], number) for split, numbers in numbered.items() for number in numbers]
    for category in categories:
        tests = [place for place, job in enumerate(jobs) if (job.split, job.category) == ("test", category)]
        others = mismatched([str(jobs[place].number) for place in tests], Stream(seed, "test", f"pairs-{category}", 0))
        for place, other in zip(tests, others, strict=True):
            jobs[place] = replace(jobs[place], other=int(other))
    return write_layout(
        Path(root),
        "dress_code",
        jobs,
        partial(_write_person, size, seed),
        partial(_write_pairs, jobs),
        [f"{category}/{folder}" for category in CATEGORIES for folder in (*FOLDERS, UNPAIRED)],
        {"seed": seed, "size": list(size), "people": people, "test_fraction": test_fraction},
        workers,
    )


def _write_pairs(jobs: list[_Job], root: Path) -> None:
    """Write the pair files of each category, and those of the root with the category's number in a third column."""
    whole: dict[str, list[str]] = {"train_pairs.txt": [], "test_pairs_paired.txt": [], "test_pairs_unpaired.txt": []}
    for number, category in enumerate(CATEGORIES):
        here = [job for job in jobs if job.category == category]
        files = {
            "train_pairs.txt": [job.names for job in here if job.split == "train"],
            "test_pairs_paired.txt": [job.names for job in here if job.split == "test"],
            "test_pairs_unpaired.txt": [(job.names[0], replace(job, number=job.other).names[1]) for job in here if job.other is not None],
        }
        for name, lines in files.items():
            text = "".join(f"{person}\t{garment}\n" for person, garment in lines)
            (root / category / name).write_text(text, encoding="utf-8")
            whole[name] += [f"{person}\t{garment}\t{number}\n" for person, garment in lines]
    for name, texts in whole.items():
        (root / name).write_text("".join(texts), encoding="utf-8")


def _write_person(size: tuple[int, int], seed: int, root: Path, job: _Job) -> Truth:
    """Write all files of one person and return its ground truth."""
    person = make_person(seed, job.split, job.number, CATEGORIES[job.category])
    images = render_person(person, *size)
    folder, stem = root / job.category, job.stem
    save_jpeg(folder / "images" / f"{stem}_0.jpg", images.image)
    save_jpeg(folder / "images" / f"{stem}_1.jpg", render_item(person.garment, *size))
    # In LaDI-VTON's release the background is white.
    Image.fromarray(black_and_white(~render_item_mask(person.garment, *size))).save(folder / "masks" / f"{stem}_1.png")
    points = images.keypoints[COCO_18]
    (folder / "keypoints" / f"{stem}_2.json").write_text(_keypoints_json(points, size), encoding="utf-8")
    Image.fromarray(images.parse_atr).save(folder / "label_maps" / f"{stem}_4.png")
    save_jpeg(folder / "skeletons" / f"{stem}_5.jpg", draw_openpose(points, *size, COCO_BONES))
    iuv = render_densepose_iuv(person, *size)
    Image.fromarray(np.ascontiguousarray(iuv[:, :, 0])).save(folder / "dense" / f"{stem}_5.png")
    if job.other is not None:
        other = make_person(seed, job.split, job.other, CATEGORIES[job.category])
        save_jpeg(folder / UNPAIRED / f"{stem}_0.jpg", render_dressed(person, other.garment, *size))
    np.savez_compressed(folder / "dense" / f"{stem}_5_uv.npz", uv=(iuv[:, :, 1:].transpose(2, 0, 1) / 255).astype(np.float32))
    return {"split": job.split, "folder": job.category, "stem": stem, **truth_of(person)}


def _keypoints_json(points: NDArray[np.float64], size: tuple[int, int]) -> str:
    """The key points as x, y, confidence and number in the dataset's frame; -1 for those that are not visible."""
    entries = []
    for number, (x, y, confidence) in enumerate(points):
        if confidence > 0:
            entries.append([round(x * FRAME[1] / size[1], 3), round(y * FRAME[0] / size[0], 3), round(confidence, 3), float(number)])
        else:
            entries.append([-1.0, -1.0, 0.0, -1.0])
    return json.dumps({"keypoints": entries})
