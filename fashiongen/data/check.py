"""`fashiongen data check`: reads a folder like its reader, and reports everything that is wrong with it.

A reader stops at the first file that it cannot use; a check goes through all files. A folder is usable if its reader can read all of it.
Nothing is changed. Each dataset has its own check (`FashionData.check`); the common parts of the reports are here.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from fashiongen.data.base import layouts
from fashiongen.errors import UserError
from fashiongen.records import write_atomically

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem: its kind, and a message."""

    kind: str
    message: str


@dataclass
class Report:
    """The result of a check.

    Attributes:
        layout: the layout.
        root: the folder.
        usable: whether the reader can read the whole folder.
        findings: the problems.
    """

    layout: str
    root: str
    usable: bool = False
    findings: list[Any] = field(default_factory=list)

    @property
    def some_usable(self) -> bool:
        """Whether some sample can be read, even if the reader stops at others."""
        return self.usable

    @property
    def verdict(self) -> str:
        """What the folder can be used for."""
        return "usable" if self.usable else "usable in part" if self.some_usable else "not usable"

    def found(self) -> list[str]:
        """Return one line per finding."""
        return [f"{finding.kind}: {finding.message}" for finding in self.findings]

    def counted(self) -> list[str]:
        """Return lines with the counts of usable samples."""
        return []

    def lines(self) -> list[str]:
        """Return the report as text: the findings, the counts, and the verdict."""
        kinds = Counter(finding.kind for finding in self.findings)
        some = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none"
        return [*self.found(), *self.counted(), f"findings: {some}", f"{self.layout} at {self.root}: {self.verdict}"]

    def as_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def run(layout: str, root: str | Path, *, strict: bool = False, json_file: str | Path | None = None) -> bool:
    """Check a folder, print the report, and optionally write it as JSON; return whether any of it is usable.

    Args:
        layout: a layout of `fashiongen.data.layouts()`.
        root: the folder.
        strict: return False if there is any finding.
        json_file: where to write the report.

    Raises:
        UserError: if the layout is unknown or the folder is missing.
    """
    report = check(layout, root)
    if json_file is not None:
        write_atomically(json_file, report.as_json())
    for line in report.lines():
        print(line)
    return (report.usable or report.some_usable) and not (strict and report.findings)


def check(layout: str, root: str | Path) -> Report:
    """Read everything that the layout's reader would read from `root`.

    Args:
        layout: a layout of `fashiongen.data.layouts()`.
        root: the folder, or its parent.

    Raises:
        UserError: if the layout is unknown or the folder is missing.
    """
    known = layouts()
    if layout not in known:
        raise UserError(f"no reader of layout {layout!r}; there are: {', '.join(known)}")
    return known[layout].check(require_folder(layout, root))


def require_folder(layout: str, root: str | Path) -> Path:
    """Return `root` with `~` expanded.

    Raises:
        UserError: if it is not a folder.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"{root} is not a folder; give the folder of a dataset in the layout {layout}")
    return folder


def do_each(work: Callable[[Item], Result], items: Collection[Item], what: str) -> list[Result]:
    """Apply `work` to every item in several threads, in order, with a progress bar; decoding images releases the GIL."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(track(pool.map(work, items), what, total=len(items), console=Console(stderr=True), transient=True))
