"""Boxes that the user draws around garments, with the garments' categories.

    boxes.csv    name,left,top,right,bottom,category        boxes.json    {"anna.jpg": [310, 420, 890, 1400],
                 anna.jpg,310,420,890,1400,upper                           "bert.jpg": {"box": [0.2, 0.5, 0.8, 1], "category": "lower"}}

A box is in pixels of the upright photo, or in shares of its width and height if all four numbers are between 0 and 1.
"""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fashiongen.data.images import Size
from fashiongen.data.listing import leaves_root
from fashiongen.errors import UserError

BOX = ("left", "top", "right", "bottom")
CATEGORIES = ("upper", "lower", "full")

Corners = tuple[float, float, float, float]
"""The left, top, right and bottom of a box as the user gives them: in pixels, or in shares of the photo."""
Entry = tuple[str, str, list[Any], str | None]
"""The place of an entry for messages, the photo's name, the values of its box, and its category."""


class Box(NamedTuple):
    """A rectangle in pixels of an upright photo; `right` and `bottom` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


def read_boxes(path: Path, names: set[str]) -> dict[str, tuple[Corners | None, str | None]]:
    """Read the box and the category of each photo, None if its entry omits them; empty if there is no such file.

    Raises:
        UserError: if the file is neither form that this module describes, or an entry's photo is not in `names`.
    """
    if not path.exists():
        return {}
    found: dict[str, tuple[Corners | None, str | None]] = {}
    for place, name, values, category in _read_json(path) if path.suffix == ".json" else _read_csv(path):
        if leaves_root(name) or name not in names:
            raise UserError(f"{place}: no photo {name!r} in this folder; fix the name or remove the line")
        if name in found:
            raise UserError(f"{place}: a second line for {name}; remove one")
        check_category(category, place)
        found[name] = (to_corners(values, place) if any(value != "" for value in values) else None, category)
    return found


def _read_csv(path: Path) -> list[Entry]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            if missing := [column for column in ("name", *BOX) if column not in (reader.fieldnames or ())]:
                raise UserError(f"{path}: has no column {', '.join(missing)}; its first line must be name,{','.join(BOX)},category")
            lines = [(reader.line_num, {key: value.strip() for key, value in line.items() if key and value}) for line in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a comma-separated table in UTF-8 ({error}); save it as one") from error
    return [
        (f"{path}, line {number}", line.get("name", ""), [line.get(side, "") for side in BOX], line.get("category") or None)
        for number, line in lines
    ]


def _read_json(path: Path) -> list[Entry]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        entries = [(name, entry if isinstance(entry, dict) else {"box": entry}) for name, entry in content.items()]
        return [(f"{path}, {name}", name, list(entry.get("box", ())), entry.get("category")) for name, entry in entries]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:  # no JSON, no mapping, no list
        form = '{"anna.jpg": [left, top, right, bottom], "bert.jpg": {"box": [...], "category": "lower"}}'
        raise UserError(f"{path}: not of the form {form} ({type(error).__name__})") from error


def check_category(category: str | None, place: str) -> None:
    """Refuse an unknown category; None is one that is not given.

    Raises:
        UserError: naming the `place` that has it.
    """
    if category not in (None, *CATEGORIES):
        raise UserError(f"{place}: category {category!r}: unknown; choose among {', '.join(CATEGORIES)}")


def to_corners(values: Sequence[str | float], place: str) -> Corners:
    """Convert the four values of a box to numbers.

    Raises:
        UserError: naming the `place` that has them, if they are not four finite numbers.
    """
    try:
        left, top, right, bottom = (float(value) for value in values)
        if not all(map(math.isfinite, (left, top, right, bottom))):
            raise ValueError("NaN or infinity")
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{place}: {', '.join(BOX)} must be numbers of pixels, not {', '.join(map(str, values))}") from error
    return left, top, right, bottom


def fit_box(corners: Corners, size: Size, what: str) -> Box:
    """Return a box in whole pixels of a photo of `size`, clipped to it.

    Args:
        corners: in pixels, or in shares of width and height if all are between 0 and 1.
        size: height and width of the photo.
        what: the box, for messages.

    Raises:
        UserError: if the box is empty or outside of the photo.
    """
    if all(0 <= value <= 1 for value in corners):
        corners = (corners[0] * size[1], corners[1] * size[0], corners[2] * size[1], corners[3] * size[0])
    box = Box(math.floor(corners[0]), math.floor(corners[1]), math.ceil(corners[2]), math.ceil(corners[3]))
    if box.left >= box.right or box.top >= box.bottom:
        raise UserError(f"{what} is empty ({', '.join(map(str, box))}): left must be less than right, top less than bottom")
    clipped = Box(max(box.left, 0), max(box.top, 0), min(box.right, size[1]), min(box.bottom, size[0]))
    if clipped.left >= clipped.right or clipped.top >= clipped.bottom:
        raise UserError(f"{what} ({', '.join(map(str, box))}) lies outside of the photo, which is {size[1]} wide and {size[0]} high")
    return clipped
