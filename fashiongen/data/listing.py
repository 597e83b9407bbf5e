"""The listing of a try-on dataset: its pair files, their samples, and the search for the samples' files.

The folder names of a part (person, garment, mask, ...) differ between copies of a dataset.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from fashiongen.errors import UserError


class NotListed(UserError):
    """A half of a dataset has no pair file: it was not downloaded, or the folder is not in the layout."""


UNPAIRED = ("other", "other_mask", "other_parse", "other_box", "dressed")
"""The parts of a row that only an unpaired test needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TryOnRow:
    """The files of one sample's parts; None for a part that the folder does not offer.

    Attributes:
        id: the sample's id, unique in its split.
        person: the dressed person.
        category: upper, lower or full; None if it is derived from the parse.
        garment: the shop image of the garment that the person wears; in an unpaired row, that of the garment to put on.
        other: the shop image, or another person's photo, of the garment that an unpaired test puts on the person.
        garment_mask: the foreground of `garment`.
        other_mask: the foreground of `other`.
        other_parse: the human-parse labels of `other`, if it is a photo of another person.
        other_box: the crop box of that photo, if it is a full one.
        dressed: the person wearing `other`, which only the embedded world can draw.
        mask: the agnostic mask of the person.
        agnostic: the person with the agnostic region painted grey; set only if it replaces the mask.
        parse: the human-parse labels.
        pose: the keypoints.
        densepose: DensePose's map.
        box: the crop box of `person`, if it is a full photo.
    """

    id: str
    person: Path
    category: str | None = None
    garment: Path | None = None
    other: Path | None = None
    garment_mask: Path | None = None
    other_mask: Path | None = None
    other_parse: Path | None = None
    other_box: Path | None = None
    dressed: Path | None = None
    mask: Path | None = None
    agnostic: Path | None = None
    parse: Path | None = None
    pose: Path | None = None
    densepose: Path | None = None
    box: Path | None = None

    paired: ClassVar[bool] = True
    """Whether `garment` is the one that the person wears."""

    @property
    def photo(self) -> Path | None:
        """The person's photo where a method may see all of it: beside another garment; beside the own one it is the truth."""
        return None if self.paired else self.person

    def parts(self) -> dict[str, Path]:
        """Return the sample's files by part, whether or not they exist."""
        return {entry.name: value for entry in fields(self) if isinstance(value := getattr(self, entry.name), Path)}

    def files(self) -> list[Path]:
        """Return the files that a sample is read from: without those of an unpaired test, unless the row is one of it."""
        unread = UNPAIRED if self.paired else ("other", "other_mask")
        return [path for part, path in self.parts().items() if part not in unread]

    def unpaired(self) -> "UnpairedRow":
        """Return the row of an unpaired test: the other garment is the one to put on, and the own one takes its place."""
        files: dict[str, Any] = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        exchanged = {"garment": self.other, "garment_mask": self.other_mask, "other": self.garment, "other_mask": self.garment_mask}
        return UnpairedRow(**(files | exchanged))


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpairedRow(TryOnRow):
    """The files of a sample of an unpaired test."""

    paired: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The listing of one half of a dataset, whether or not every file exists.

    Attributes:
        half: train or test.
        sources: the files that list the samples.
        rows: the samples, in the order of the files.
        absent: for each part that the folder offers, the missing files.
        repeated: ids that are listed more than once.
    """

    half: str
    sources: tuple[Path, ...]
    rows: list[TryOnRow]
    absent: dict[str, list[Path]] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)

    @property
    def lists(self) -> str:
        """The sources' names, for messages."""
        return " and ".join(map(str, self.sources))


def lists_nobody(sources: Sequence[Path], what: str = "") -> UserError:
    """Return the error that `sources` list no sample, or none of `what`."""
    listed = f"no sample of {what}" if what else "no sample"
    return UserError(f"{' and '.join(map(str, sources))}: {listed} is listed; restore the file, with one sample per line")


def mask_origin(row: TryOnRow) -> str:
    """Return the origin of a row's agnostic mask: a file, or the parts it is derived from."""
    if row.mask is not None:
        return "file"
    if row.agnostic is not None:
        return "painted image"
    sources = {"parse": row.parse, "key points": row.pose, "DensePose": row.densepose}
    return " and ".join(name for name, path in sources.items() if path is not None) or "none"


def fingerprint(sources: Iterable[Path], files: Iterable[Path], root: Path) -> str:
    """Return a sha256 over the content of the list files and the names (relative to `root`) and sizes of the samples' files."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    for line in sorted(f"\0{Path(os.path.relpath(file, root)).as_posix()}\0{file.stat().st_size}" for file in files):
        digest.update(line.encode())
    return digest.hexdigest()


# For a part, the folders and suffixes (after the stem; "" is the full name) used by copies of a dataset.
Places = Sequence[tuple[str, str]]


def find(folder: Path, places: Places, names: Sequence[str], stems: Sequence[str]) -> tuple[list[Path], list[Path]] | None:
    """Find one file per sample, in the place that holds the most of them.

    Args:
        folder: the parent of the places.
        places: folders and suffixes, preferred ones first.
        names: a file name per sample, used if the suffix is "".
        stems: a stem per sample, to which the suffix is appended.

    Returns:
        One path per sample, and those that are missing; None if no place holds any.
    """
    best: tuple[int, list[Path], list[Path]] | None = None
    for place, ending in places:
        here = folder / place
        present = set(os.listdir(here)) if here.is_dir() else set()
        files = [stem + ending for stem in stems] if ending else list(names)
        absent = [here / file for file in files if file not in present]
        count = len(files) - len(absent)
        if count and (best is None or count > best[0]):
            best = (count, [here / file for file in files], absent)
    return None if best is None else best[1:]


def locate(root: Path, markers: Sequence[str]) -> Path:
    """Return `root` if it holds one of `markers`, else its only subfolder that does: archives differ in the name of their top folder.

    Raises:
        UserError: if several subfolders do.
    """
    if not root.is_dir() or any((root / marker).exists() for marker in markers):
        return root
    inner = sorted(folder for folder in root.iterdir() if folder.is_dir() and any((folder / marker).exists() for marker in markers))
    if len(inner) > 1:
        raise UserError(
            f"{root} holds several copies of the dataset ({', '.join(folder.name for folder in inner)}); name one of them as root"
        )
    return inner[0] if inner else root


def read_pairs(path: Path, columns: Sequence[int] = (2,)) -> list[tuple[str, ...]]:
    """Read a pair file: one sample per line, names separated by spaces or tabs; blank lines are skipped.

    Args:
        path: the file.
        columns: the accepted numbers of columns, the same in all lines.

    Raises:
        UserError: if the file is missing or not text, a line has another number of columns, or a name points outside of the dataset's root.
    """
    pairs: list[tuple[str, ...]] = []
    for number, line in enumerate(read_lines(path), start=1):
        names = tuple(line.split())
        if not names:
            continue
        wanted = (len(pairs[0]),) if pairs else columns
        if len(names) not in wanted:
            some = " or ".join(str(count) for count in wanted)
            raise UserError(f"{path}, line {number}: has {len(names)} columns instead of {some}: {line.strip()!r}")
        refuse_leaving(path, number, names)
        pairs.append(names)
    return pairs


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file with any line endings.

    Raises:
        UserError: if the file is missing or not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a pair file: {error}") from error


def refuse_leaving(path: Path, number: int, names: Sequence[str]) -> None:
    """Reject names in line `number` of `path` that point outside of the dataset's folder.

    Raises:
        UserError: if one does.
    """
    for name in names:
        if leaves_root(name):
            raise UserError(f"{path}, line {number}: {name!r} points outside of the dataset's folder; remove the line")


def leaves_root(name: str) -> bool:
    """Return whether a file name from a data file is absolute or points outside of its folder."""
    parts = PurePosixPath(name.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or ":" in name or "\0" in name
