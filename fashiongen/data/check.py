"""`fashiongen data check`: reads a folder as its reader will, and names everything that is wrong with it at once.

A reader stops at the first file that it cannot use; a check goes through all of them. A folder is usable if its reader reads it through.
Nothing is changed. Each dataset has its own check (`FashionData.check`); what the reports share is here.
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
    """Something that is wrong: of what kind, and what exactly."""

    kind: str
    message: str


@dataclass
class Report:
    """What a check found.

    Attributes:
        layout: the layout.
        root: the folder.
        usable: whether the reader reads the folder through.
        findings: what is wrong.
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
        """What the folder is good for."""
        return "usable" if self.usable else "usable in part" if self.some_usable else "not usable"

    def found(self) -> list[str]:
        """Return a line for each finding."""
        return [f"{finding.kind}: {finding.message}" for finding in self.findings]

    def counted(self) -> list[str]:
        """Return lines that count what can be used."""
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
    """Check a folder, print the report, and write it as JSON if asked; tell whether anything in it can be used.

    Args:
        layout: a layout of `fashiongen.data.layouts()`.
        root: the folder.
        strict: any finding fails.
        json_file: where to write the report.

    Raises:
        UserError: if the layout is unknown or the folder is not there.
    """
    report = check(layout, root)
    if json_file is not None:
        write_atomically(json_file, report.as_json())
    for line in report.lines():
        print(line)
    return (report.usable or report.some_usable) and not (strict and report.findings)


def check(layout: str, root: str | Path) -> Report:
    """Read all that the reader of a layout would read from `root`.

    Args:
        layout: a layout of `fashiongen.data.layouts()`.
        root: the folder, or the one around it.

    Raises:
        UserError: if the layout is unknown or the folder is not there.
    """
    known = layouts()
    if layout not in known:
        raise UserError(f"no reader of layout {layout!r}; there are: {', '.join(known)}")
    return known[layout].check(require_folder(layout, root))


def require_folder(layout: str, root: str | Path) -> Path:
    """Return `root` with its `~` resolved.

    Raises:
        UserError: if it is no folder.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"{root} is no folder; name the folder of a dataset in the layout {layout}")
    return folder


def do_each(work: Callable[[Item], Result], items: Collection[Item], what: str) -> list[Result]:
    """Do `work` on every item in several threads, in order, under a progress bar; decoding images releases Python's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(track(pool.map(work, items), what, total=len(items), console=Console(stderr=True), transient=True))
