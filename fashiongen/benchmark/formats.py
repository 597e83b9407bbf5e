"""How the leaderboard writes numbers, times, sizes and links, whatever the file."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

ARROWS = {True: "↑", False: "↓", None: ""}


def number(value: float | None, decimals: int) -> str:
    """Return a number with so many decimals, a dash for none."""
    return "-" if value is None else f"{value:.{decimals}f}"


def seconds(value: float | None) -> str:
    """Return a time in the unit that fits."""
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
    """Return the address of a file as seen from the folder of a page, or from the current one, quoted."""
    start = (page.absolute().parent if page else Path.cwd()).resolve()
    return quote(os.fsencode(os.path.relpath(path.resolve(), start)))
