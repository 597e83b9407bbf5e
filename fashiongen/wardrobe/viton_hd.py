"""Writes a world of people in the exact folder layout, file names, palette and pair format of VITON-HD."""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from fashiongen.errors import UserError
from fashiongen.wardrobe.draw import render_item, render_item_mask
from fashiongen.wardrobe.people import Person, make_person
from fashiongen.wardrobe.portrait import PersonPictures, render_person
from fashiongen.wardrobe.world import WORLD_VERSION, Stream

FOLDERS: tuple[str, ...] = (
    *("image", "cloth", "cloth-mask", "agnostic-v3.2", "agnostic-mask", "image-parse-v3", "image-parse-agnostic-v3.2"),
    *("openpose_img", "openpose_json", "image-densepose"),
)
TRUTH = "wardrobe_truth.jsonl"
# The colours of LIP's twenty classes, as in the dataset's own palette pictures.
LIP_PALETTE: tuple[tuple[int, int, int], ...] = (
    *((0, 0, 0), (128, 0, 0), (255, 0, 0), (0, 85, 0), (170, 0, 51), (255, 85, 0), (0, 0, 85), (0, 119, 221), (85, 85, 0), (0, 85, 85)),
    *((85, 51, 0), (52, 86, 128), (0, 128, 0), (0, 0, 255), (51, 170, 221), (0, 255, 255), (85, 255, 170), (170, 255, 85), (255, 255, 0)),
    (255, 170, 0),
)


@dataclass(frozen=True)
class _Job:
    """One person to write: the split is also the namespace, the number also the stem."""

    split: str
    number: int

    @property
    def stem(self) -> str:
        """The file name without its ending, such as 00006_00."""
        return f"{self.number:05d}_00"


def write_viton_hd(
    root: str | Path, people: int, size: tuple[int, int], seed: int, test_fraction: float = 0.15, workers: int | None = None
) -> Path:
    """Write `people` persons of `size` (height, width) as VITON-HD into the new folder `root` and return it.

    The folder appears under its name only when it is whole. Training people come from the namespace `train`, test people from `test`.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} exists and is not an empty folder: remove it or choose another place for the wardrobe")
    tests = round(people * test_fraction)
    if min(tests, people - tests) < 2:
        raise UserError(f"{people} people with test_fraction {test_fraction} leave a split with fewer than two: ask for more people")
    jobs = [_Job("train" if number < people - tests else "test", number) for number in range(people)]

    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = root.with_name(f".{root.name}.unfinished-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for split in ("train", "test"):
            for folder in FOLDERS:
                (unfinished / split / folder).mkdir(parents=True)
        write = partial(_write_person, unfinished, size, seed)
        truths = list(track(_spread(write, jobs, workers or os.cpu_count() or 1), "wardrobe: VITON-HD", total=people))
        lines = [json.dumps(truth, sort_keys=True) for truth in truths]
        (unfinished / TRUTH).write_text("\n".join(lines) + "\n", encoding="utf-8")
        for split in ("train", "test"):
            names = [f"{job.stem}.jpg" for job in jobs if job.split == split]
            pairs = zip(names, mismatched(names, Stream(seed, split, "pairs", 0)), strict=True)
            text = "".join(f"{person} {cloth}\n" for person, cloth in pairs)
            (unfinished / f"{split}_pairs.txt").write_text(text, encoding="utf-8")
        about = {
            "version": WORLD_VERSION,
            "layout": "viton_hd",
            "seed": seed,
            "size": list(size),
            "people": people,
            "test_fraction": test_fraction,
            "fingerprint": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        }
        (unfinished / "wardrobe.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        os.replace(unfinished, root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return root


def mismatched(names: list[str], stream: Stream) -> list[str]:
    """The names in a random cyclic order, so that none stays in its place (Sattolo's algorithm)."""
    shuffled = list(names)
    for last in range(len(shuffled) - 1, 0, -1):
        other = stream.choice(range(last))
        shuffled[last], shuffled[other] = shuffled[other], shuffled[last]
    return shuffled


def _spread(write: "partial[dict[str, object]]", jobs: list[_Job], workers: int) -> Iterator[dict[str, object]]:
    """Do the jobs in order, on several processes where that is asked for."""
    if workers == 1:
        yield from map(write, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(write, jobs, chunksize=8)


def _write_person(root: Path, size: tuple[int, int], seed: int, job: _Job) -> dict[str, object]:
    """Write all files of one person and return its truth."""
    person = make_person(seed, job.split, job.number)
    pictures = render_person(person, *size)
    folder, stem = root / job.split, job.stem
    _jpeg(folder / "image" / f"{stem}.jpg", pictures.image)
    _jpeg(folder / "cloth" / f"{stem}.jpg", render_item(person.garment, *size))
    _jpeg(folder / "cloth-mask" / f"{stem}.jpg", _black_and_white(render_item_mask(person.garment, *size)))
    _jpeg(folder / "agnostic-v3.2" / f"{stem}.jpg", pictures.agnostic)
    _jpeg(folder / "image-densepose" / f"{stem}.jpg", pictures.densepose)
    Image.fromarray(_black_and_white(pictures.agnostic_mask)).save(folder / "agnostic-mask" / f"{stem}_mask.png")
    Image.fromarray(pictures.openpose).save(folder / "openpose_img" / f"{stem}_rendered.png")
    _palette(folder / "image-parse-v3" / f"{stem}.png", pictures.parse)
    _palette(folder / "image-parse-agnostic-v3.2" / f"{stem}.png", pictures.parse_agnostic)
    (folder / "openpose_json" / f"{stem}_keypoints.json").write_text(_keypoints_json(pictures), encoding="utf-8")
    return {"split": job.split, "stem": stem, **_truth(person)}


def _truth(person: Person) -> dict[str, object]:
    """What the world knows about a person and the garment."""
    garment = person.garment
    return {
        "id": person.id,
        "garment": garment.id,
        "category": garment.category,
        "attributes": garment.attributes,
        "caption": garment.caption(),
        "unseen": garment.unseen,
        "quality": person.quality,
        "occlusion": person.occlusion,
        "truncated": person.truncated,
        "side_view": person.side_view,
        "extreme_proportion": person.extreme_proportion,
        "hard_pose": person.hard_pose,
    }


def _jpeg(path: Path, picture: NDArray[np.uint8]) -> None:
    """Save without thinning out the colours, which small pictures would not survive."""
    Image.fromarray(picture).save(path, quality=95, subsampling=0)


def _black_and_white(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A mask as a grey picture: white where true."""
    return mask.astype(np.uint8) * np.uint8(255)


def _palette(path: Path, labels: NDArray[np.uint8]) -> None:
    """Save labels as a palette picture whose indices are the labels."""
    picture = Image.fromarray(labels)
    picture.putpalette(_flat(LIP_PALETTE))
    picture.save(path)


def _flat(colors: Iterable[tuple[int, int, int]]) -> list[int]:
    """All colours in one list."""
    return [value for color in colors for value in color]


def _keypoints_json(pictures: PersonPictures) -> str:
    """OpenPose's file for one person."""
    flat = [round(float(value), 3) for value in pictures.keypoints.reshape(-1)]
    return json.dumps({"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": flat}]})
