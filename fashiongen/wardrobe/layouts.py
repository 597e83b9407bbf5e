"""Shared code of the writers of public layouts: registration, atomic folders, several processes, saving images."""

import functools
import hashlib
import importlib
import json
import multiprocessing
import os
import pkgutil
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from fashiongen.errors import UserError
from fashiongen.wardrobe.people import Person
from fashiongen.wardrobe.world import WORLD_VERSION, Stream

TRUTH = "wardrobe_truth.jsonl"
LAYOUTS_VERSION = 2
"""Raised when writers write other files of the same world (2: people in the garments of unpaired tests)."""
SPLITS: tuple[str, ...] = ("train", "test")

Job = TypeVar("Job")
Truth = dict[str, object]


class LayoutWriter(Protocol):
    """Writes the embedded world in the folder layout of a public dataset."""

    def __call__(self, root: str | Path, people: int, size: tuple[int, int], seed: int) -> Path:
        """Write `people` people (or pairs of items) with images of `size` (height, width) into the new folder `root` and return it."""


AnyWriter = TypeVar("AnyWriter", bound=LayoutWriter)
_WRITERS: dict[str, LayoutWriter] = {}


def writes(layout: str) -> Callable[[AnyWriter], AnyWriter]:
    """Register the decorated function as the writer of `layout`, for `wardrobe render` and `data.root: wardrobe`."""

    def register(writer: AnyWriter) -> AnyWriter:
        _WRITERS[layout] = writer
        return writer

    return register


def writers() -> dict[str, LayoutWriter]:
    """Return the writers by layout: those of this package, and those of all imported packages."""
    _import_own()
    return dict(sorted(_WRITERS.items()))


@functools.cache
def _import_own() -> None:
    package = importlib.import_module(__package__ or "fashiongen.wardrobe")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def split_numbers(people: int, test_fraction: float, least: int = 2) -> dict[str, range]:
    """Return the numbers of each split's people; the test people come last.

    Raises:
        UserError: if a split would have fewer than `least`.
    """
    tests = round(people * test_fraction)
    if min(tests, people - tests) < least:
        words = {2: "two"}.get(least, str(least))
        raise UserError(f"{people} people with test_fraction {test_fraction} leave a split with fewer than {words}: ask for more people")
    return {"train": range(people - tests), "test": range(people - tests, people)}


def write_layout(
    root: Path,
    layout: str,
    jobs: Sequence[Job],
    write_one: Callable[[Path, Job], Truth],
    write_lists: Callable[[Path], None],
    folders: Iterable[str],
    about: Truth,
    workers: int | None,
    more: Iterable[Truth] = (),
) -> Path:
    """Fill the new folder `root` and return it; it appears under its name only when it is complete.

    Args:
        root: folder to create; it may exist if it is empty.
        layout: the layout's name, for the description in `wardrobe.json`.
        jobs: one per person.
        write_one: writes the files of one job below a folder and returns the ground truth; picklable.
        write_lists: writes the pair files below a folder.
        folders: the folders that `write_one` writes to.
        about: extra entries of the description.
        workers: number of processes; one per core by default.
        more: ground truth of what has no job, such as users, after that of the jobs.

    Raises:
        UserError: if `root` is not empty.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} exists and is not an empty folder: remove it or choose another place for the wardrobe")
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = root.with_name(f".{root.name}.unfinished-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for folder in folders:
            (unfinished / folder).mkdir(parents=True)
        truths = list(
            track(_spread(partial(write_one, unfinished), jobs, workers or os.cpu_count() or 1), f"wardrobe: {layout}", len(jobs))
        )
        lines = [json.dumps(truth, sort_keys=True) for truth in (*truths, *more)]
        (unfinished / TRUTH).write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_lists(unfinished)
        fingerprint = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        description = {"version": WORLD_VERSION, "layout": layout, **about, "fingerprint": fingerprint}
        (unfinished / "wardrobe.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        os.replace(unfinished, root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return root


def _spread(write: Callable[[Job], Truth], jobs: Sequence[Job], workers: int) -> Iterator[Truth]:
    """Run the jobs in order, in several processes if requested."""
    if workers == 1:
        yield from map(write, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(write, jobs, chunksize=8)


def mismatched(names: list[str], stream: Stream) -> list[str]:
    """The names in a random cyclic permutation, in which none stays in its place (Sattolo's algorithm)."""
    shuffled = list(names)
    for last in range(len(shuffled) - 1, 0, -1):
        other = stream.choice(range(last))
        shuffled[last], shuffled[other] = shuffled[other], shuffled[last]
    return shuffled


def truth_of(person: Person) -> Truth:
    """The ground truth of a person and the garment."""
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


def save_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    """Save without chroma subsampling, which would spoil small images."""
    Image.fromarray(image).save(path, quality=95, subsampling=0)


def save_palette(path: Path, labels: NDArray[np.uint8], palette: Iterable[tuple[int, int, int]]) -> None:
    """Save labels as a palette image with the labels as indices."""
    image = Image.fromarray(labels)
    image.putpalette([value for color in palette for value in color])
    image.save(path)


def black_and_white(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A mask as a grey image, white where true."""
    return mask.astype(np.uint8) * np.uint8(255)
