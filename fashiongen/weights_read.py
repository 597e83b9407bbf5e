"""Which weights a method has read: the source, revision and hashes of each frozen part and of all weights that it starts from.

A method's constructor opens a list (`begin`); whatever `checkpoints.read_state` and `nn.parts` read from then on is noted in it, until the
evaluation starts (`end`). Files are hashed when a record is written, each once per process.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fashiongen.records import WeightsEntry, file_sha256

TINY = Path(__file__).parent / "tiny" / "weights"
CACHED = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<revision>[^/]+)/?(?P<inside>.*)$")
CHANGED = "changed since it was read"

Stat = tuple[int, int, int, int]


@dataclass(frozen=True)
class Reading:
    """One file, or the files of one part.

    Attributes:
        place: the file, or the folder of the part; for a part that is not found locally its id on the hub.
        files: the files that were read, with their state when they were.
        pinned: whether the recipe names the commit; None if they are not from a hub.
    """

    place: str
    files: dict[Path, Stat] = field(default_factory=dict)
    pinned: bool | None = None

    def source(self) -> tuple[str, str | None]:
        """Return the record's name of the source, and the revision if it is from a hub."""
        path = Path(self.place)
        if path.is_relative_to(TINY):
            return f"tiny/{path.relative_to(TINY).as_posix()}", None
        if cached := CACHED.search(path.as_posix()):
            return "/".join(filter(None, cached.group("owner", "name", "inside"))), cached["revision"]
        return self.place, None

    def entry(self) -> WeightsEntry:
        """Return the record's entry, with a sha256 of each file."""
        source, revision = self.source()
        hashes = {path.name: _sha256(path, stat) if stat_of(path) == stat else CHANGED for path, stat in sorted(self.files.items())}
        return {"source": source, "revision": revision, "pinned": self.pinned, "files": hashes}


_noted: list[Reading] | None = None


def begin() -> list[Reading]:
    """Open a new list, in which everything that is read from now on is noted, and return it."""
    global _noted
    _noted = []
    return _noted


def end() -> None:
    """Note nothing more."""
    global _noted
    _noted = None


@contextmanager
def unnoted() -> Iterator[None]:
    """Note nothing inside, such as the weights of a metric."""
    global _noted
    before, _noted = _noted, None
    try:
        yield
    finally:
        _noted = before


def note(place: str | Path, files: Sequence[Path] = (), *, pinned: bool | None = None) -> None:
    """Note that a file (without `files`) or the files of a part were read; a file that is noted already stays as it is."""
    listed = list(files) or ([path] if (path := Path(place)).is_file() else [])
    if _noted is not None and not any(reading.place == str(place) for reading in _noted):
        _noted.append(Reading(str(place), {path: stat_of(path) for path in listed}, pinned))


def entries(readings: Iterable[Reading], earlier: Iterable[WeightsEntry] = ()) -> list[WeightsEntry]:
    """Return the record's entries of readings, and those of the run that this one resumes, by source."""
    found = [reading.entry() for reading in readings]
    return sorted([*found, *(entry for entry in earlier if entry not in found)], key=lambda entry: entry["source"])


def unpinned(sources: Iterable[tuple[str, str | None]]) -> list[str]:
    """Return a line for each repository of a hub, given the sources and revisions of weights that the recipe does not pin."""
    commits = {"/".join(source.split("/")[:2]): revision for source, revision in sources}
    return [
        f"{name}: unpinned, so another run may read other weights; name its revision, now {name}@{now}" for name, now in commits.items()
    ]


def stat_of(path: Path) -> Stat:
    """Return what changes when a file is replaced or written: device, inode, size and time of change; zeros without a file."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0, 0)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@functools.cache
def _sha256(path: Path, stat: Stat) -> str:
    """Return a file's sha256, computed once for the same inode, size and time of change; it is read in blocks."""
    return file_sha256(path)
