"""The lists of tops and bottoms: one CSV file per split, with rows (top, its matching bottom, its listed negatives)."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fashiongen.data.listing import leaves_root, read_lines
from fashiongen.errors import UserError

TOP, BOTTOM, NEGATIVE = "tshirt", "positive_pant", "neg_"


@dataclass(frozen=True, slots=True)
class PairRow:
    """One line of a list.

    Attributes:
        id: unique in its split.
        top: id of the top.
        bottom: id of its matching bottom.
        negatives: the listed negatives, in order.
    """

    id: str
    top: str
    bottom: str
    negatives: tuple[str, ...] = ()


def read_rows(path: Path) -> list[PairRow]:
    """Read a list of tops and bottoms: CSV with a header, columns found by name; blank lines are skipped.

    Raises:
        UserError: if the file is missing, not text or empty, lacks a column, a line is too short, or an id points outside of the folder.
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
            raise UserError(f"{path}, line {number}: has {len(cells)} columns instead of {len(heading)}: {','.join(cells)!r}")
        named = (cells[top], cells[bottom], *(cells[index] for index in negatives))
        for name in named:
            if not name or leaves_root(name) or "/" in name or "\\" in name:
                raise UserError(f"{path}, line {number}: {name!r} is not an item id; remove the line")
        id_ = f"{named[0]}_{named[1]}"
        seen[id_] += 1
        rows.append(PairRow(id_ if seen[id_] == 1 else f"{id_}_{seen[id_]}", named[0], named[1], named[2:]))
    if not rows:
        raise UserError(f"{path}: contains no pairs")
    return rows


def positives_of(rows: Sequence[PairRow]) -> dict[str, tuple[str, ...]]:
    """Return the distinct matching bottoms of each top, in the order of the rows."""
    positives: dict[str, dict[str, None]] = {}
    for row in rows:
        positives.setdefault(row.top, {})[row.bottom] = None
    return {top: tuple(bottoms) for top, bottoms in positives.items()}
