"""Formats numbers, times, sizes and links for all forms of the leaderboard."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

ARROWS = {True: "↑", False: "↓", None: ""}


def number(value: float | None, decimals: int) -> str:
    """Return a number with `decimals` decimals, a dash for None."""
    return "-" if value is None else f"{value:.{decimals}f}"


def seconds(value: float | None) -> str:
    """Return a time in a suitable unit.

    >>> seconds(0.5), seconds(600.0)
    ('500 ms', '10 min')
    """
    if value is None:
        return "-"
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min")):
        if value < limit:
            return f"{value * factor:.3g} {unit}"
    return f"{value / 3600:.3g} h"


def gibibytes(value: float | None) -> str:
    """Return bytes as GiB."""
    return "-" if value is None else f"{value / 2**30:.2f} GiB"


def link(path: Path, page: Path | None) -> str:
    """Return the relative address of a file, quoted, as seen from the folder of a page, or from the current folder."""
    start = (page.absolute().parent if page else Path.cwd()).resolve()
    return quote(os.fsencode(os.path.relpath(path.resolve(), start)))
