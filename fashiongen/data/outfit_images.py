"""The images of items in DiFashion's layout: where they are, and reading them. Sizes are (height, width).

The layout does not say where images are: the authors share a list of paths, descriptions of items or folders named after categories,
and users have images of their own. `ImageFinder` looks in all of these.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fashiongen.data.images import Size, image_to_tensor, open_image
from fashiongen.data.listing import leaves_root, read_lines
from fashiongen.data.object_arrays import read_npy
from fashiongen.data.outfit_lists import OutfitLists
from fashiongen.errors import UserError

Fit = Literal["pad", "stretch"]
"""How images of another aspect ratio are brought to a size. `pad`: with white at both sides, as DiFashion does; `stretch`: distorted."""

ENDINGS = (".png", ".jpg", ".jpeg")
FOLDERS = ("", "semantic_category")
"""Where images are below the image folder, which copies of the datasets do differently."""


class ImageFinder:
    """Finds the images of items, in the first of these places that has it.

    1. the user's own list, a CSV file with the columns `id` and `path`,
    2. `all_item_image_paths.npy`, a list by item number or a dictionary,
    3. `item_info.npy`: `<category>/<original iid>.png`,
    4. `<category>/<item>.png`,
    5. `<item>.png` in one of the folders `flat`.

    Paths are relative to the image folder. `.jpg` and `.jpeg` are found too, where the place is no list of files.
    """

    def __init__(self, lists: OutfitLists, folder: Path, mapping: Path | None = None, flat: Sequence[str] = ()) -> None:
        """Read the lists of paths.

        Args:
            lists: the dataset's lists.
            folder: the image folder.
            mapping: the user's list.
            flat: folders with the images of all items.

        Raises:
            UserError: if a list of paths is missing or unreadable, or a path of the user's list leaves the folder.
        """
        self.lists = lists
        self.folder = folder
        self.flat = tuple(flat)
        self._mapped = {} if mapping is None else read_mapping(mapping)
        listed = lists.find("all_item_image_paths")
        self._paths = {} if listed is None else read_paths(listed)
        self._present: dict[str, frozenset[str]] = {}

    def find(self, item: int) -> Path | None:
        """Return the image of an item; None if there is none.

        Raises:
            UserError: if a path leaves the image folder.
        """
        for directory, stem, endings in self._places(item):
            for folder in FOLDERS:
                if present := self._in(f"{folder}/{directory}"):
                    for ending in endings:
                        if stem + ending in present:
                            return self.folder / folder / directory / (stem + ending)
        return None

    def find_all(self, items: Iterable[int]) -> dict[int, Path]:
        """Return the images of the items that have one."""
        found = ((item, self.find(item)) for item in dict.fromkeys(items))
        return {item: path for item, path in found if path is not None}

    def first_place(self, item: int) -> Path:
        """Return the place where an item's image is looked for first, for messages."""
        directory, stem, endings = next(self._places(item), ("", str(item), ENDINGS))
        return self.folder / directory / (stem + endings[0])

    def _places(self, item: int) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """Yield folder, name, and the endings that it may have."""
        for listed in (self._mapped, self._paths):
            if item in listed:
                directory, _, name = self._inside(listed[item], item).replace("\\", "/").rpartition("/")
                yield directory, name, ("",)
        if (info := self.lists.info.get(item)) and "original iid" in info:
            category = info.get("category")
            named = self.lists.categories.get(category) if isinstance(category, int) else category
            yield self._inside(str(named), item), self._inside(str(info["original iid"]), item), ENDINGS
        if (number := self.lists.category_of.get(item)) is not None and number in self.lists.categories:
            yield self._inside(self.lists.categories[number], item), str(item), ENDINGS
        yield from ((folder, str(item), ENDINGS) for folder in self.flat)

    def _inside(self, name: str, item: int) -> str:
        """Return a name from a data file if it stays in the image folder."""
        if (name[:1] in ("/", "\\") or ".." in name or ":" in name or "\0" in name) and leaves_root(name):
            raise UserError(
                f"{self.lists.root}: the image of item {item} is given as {name!r}, outside of the image folder; correct "
                "all_item_image_paths.npy or item_info.npy"
            )
        return name

    def _in(self, directory: str) -> frozenset[str]:
        if directory not in self._present:
            folder = self.folder / directory.lstrip("/")
            self._present[directory] = frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()
        return self._present[directory]


def read_mapping(path: Path) -> dict[int, str]:
    """Read a user's list of images: a CSV file with the columns `id` and `path`; blank lines are skipped.

    Raises:
        UserError: if the file is missing or not text, lacks a column, an id is no number or listed twice, or a path leaves its folder.
    """
    lines = csv.reader(read_lines(path))
    heading = [name.strip() for name in next(lines, [])]
    if missing := [name for name in ("id", "path") if name not in heading]:
        raise UserError(f"{path}: has no column {' and no column '.join(missing)}; its heading is: {','.join(heading) or 'empty'}")
    found: dict[int, str] = {}
    for number, line in enumerate(lines, start=2):
        if not any(cell.strip() for cell in line):
            continue
        cells = dict(zip(heading, (cell.strip() for cell in line), strict=False))
        id_, name = cells.get("id", ""), cells.get("path", "")
        if not id_.isdecimal() or int(id_) in found:
            what = "is listed twice" if id_.isdecimal() else "is no item's number"
            raise UserError(f"{path}, line {number}: {id_!r} {what}; correct the line")
        if not name or leaves_root(name):
            raise UserError(f"{path}, line {number}: {name!r} is no path below the image folder; correct the line")
        found[int(id_)] = name
    return found


def read_paths(path: Path) -> dict[int, str]:
    """Read `all_item_image_paths.npy`: a list or array of paths by item number, or a dictionary.

    Raises:
        UserError: if it holds something else.
    """
    listed: Any = read_npy(path)
    if isinstance(listed, np.ndarray) and listed.ndim == 1:
        listed = listed.tolist()
    found = dict(listed if isinstance(listed, Mapping) else enumerate(listed)) if isinstance(listed, Mapping | list | tuple) else None
    if found is None or not all(isinstance(name, str) for name in found.values()):
        raise UserError(f"{path}: does not hold a path for each item; get the file again from the dataset's authors")
    return found


class ItemReader:
    """Reads the images of items.

    Attributes:
        paths: the images by item.
        size: height and width to read them at.
    """

    def __init__(self, paths: Mapping[int, Path], size: Size, fit: Fit, in_memory: bool) -> None:
        """Read from `paths` at `size`; `in_memory` caches decoded images."""
        self.paths = paths
        self.size = size
        self.fit: Fit = fit
        self._decoded: dict[int, Tensor] | None = {} if in_memory else None

    def images(self, items: Sequence[int]) -> Tensor:
        """Read images of items, each distinct one once: (N, 3, H, W) uint8.

        Raises:
            UserError: if one is missing or unreadable.
        """
        read = {item: self.image(item) for item in dict.fromkeys(items)}
        empty = torch.zeros(0, 3, *self.size, dtype=torch.uint8)
        return torch.stack([read[item] for item in items]) if items else empty

    def image(self, item: int) -> Tensor:
        """Read an item's image, (3, H, W) uint8.

        Raises:
            UserError: if it is missing or unreadable.
        """
        if self._decoded is not None and item in self._decoded:
            return self._decoded[item]
        image = read_item_image(self.paths[item], self.size, self.fit)
        if self._decoded is not None:
            self._decoded[item] = image
        return image


def read_item_image(path: Path, size: Size, fit: Fit) -> Tensor:
    """Read an item's image at `size`, by Lanczos' filter as DiFashion does: (3, H, W) uint8, transparent areas white.

    Raises:
        UserError: if it is unreadable.
    """
    image = open_image(path)
    return image_to_tensor(pad(image, size) if fit == "pad" else image, size, "lanczos")


def pad(image: Image.Image, size: Size) -> Image.Image:
    """Put an image in the middle of the smallest white one that has the aspect ratio of `size`: DiFashion's square for a square size."""
    height, width = size
    wide, high = max(image.width, -(-image.height * width // height)), max(image.height, -(-image.width * height // width))
    if (wide, high) == image.size:
        return image
    padded = Image.new("RGB", (wide, high), "white")
    padded.paste(image, ((wide - image.width) // 2, (high - image.height) // 2))
    return padded
