"""What a try-on dataset lists: its pair files, the samples that they name, and the search for their files.

A part of a sample (its person, its garment, its mask, ...) lies under folder names in which the copies of a dataset differ.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath

from fashiongen.errors import UserError


class NotListed(UserError):
    """A half of a dataset has no pair file: it was not downloaded, or the folder is not in the layout."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TryOnRow:
    """Where the parts of one sample lie; None for a part that the folder does not offer.

    Attributes:
        id: the sample's id, unique in its split.
        person: the dressed person.
        category: upper, lower or full; None if the parse tells it.
        garment: the shop image of the garment that the person wears.
        other: the shop image, or another person's photo, of the garment that an unpaired test puts on the person.
        garment_mask: the foreground of `garment`.
        mask: the agnostic mask of the person.
        agnostic: the person with the agnostic region painted grey; named only where it stands in for the mask.
        parse: the human-parse labels.
        pose: the key points.
        densepose: DensePose's map.
        box: where `person`, an uncut photo, is to be cut.
    """

    id: str
    person: Path
    category: str | None = None
    garment: Path | None = None
    other: Path | None = None
    garment_mask: Path | None = None
    mask: Path | None = None
    agnostic: Path | None = None
    parse: Path | None = None
    pose: Path | None = None
    densepose: Path | None = None
    box: Path | None = None

    def parts(self) -> dict[str, Path]:
        """Return the files of the sample, by the part that each holds; there or not."""
        return {entry.name: value for entry in fields(self) if isinstance(value := getattr(self, entry.name), Path)}

    def files(self) -> list[Path]:
        """Return the files that a try-off sample is read from, which `other` is not."""
        return [path for part, path in self.parts().items() if part != "other"]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What one half of a dataset lists, whether or not every file is there.

    Attributes:
        half: train or test.
        sources: the files that list the samples.
        rows: the samples, in the order of the files.
        absent: for each part that the folder offers, the named files that are not there.
        repeated: ids that are listed more than once.
    """

    half: str
    sources: tuple[Path, ...]
    rows: list[TryOnRow]
    absent: dict[str, list[Path]] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)

    @property
    def lists(self) -> str:
        """The sources' names, for a message."""
        return " and ".join(map(str, self.sources))


def lists_nobody(sources: Sequence[Path], what: str = "") -> UserError:
    """Say that `sources` list no sample at all, or none of `what`."""
    listed = f"no sample of {what}" if what else "no sample"
    return UserError(f"{' and '.join(map(str, sources))}: {listed} is listed there; restore the file: one sample a line")


def mask_origin(row: TryOnRow) -> str:
    """Return the origin of a row's agnostic mask: a file, or the parts that it is made from."""
    if row.mask is not None:
        return "file"
    if row.agnostic is not None:
        return "painted image"
    sources = {"parse": row.parse, "key points": row.pose, "DensePose": row.densepose}
    return " and ".join(name for name, path in sources.items() if path is not None) or "none"


def fingerprint(sources: Iterable[Path], files: Iterable[Path], root: Path) -> str:
    """Return a sha256 over the content of what lists the samples and the names (from `root` on) and sizes of their files."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    for line in sorted(f"\0{Path(os.path.relpath(file, root)).as_posix()}\0{file.stat().st_size}" for file in files):
        digest.update(line.encode())
    return digest.hexdigest()


# For a part, the folders and the endings (after the stem; "" is the name as it is) under which copies of a dataset hold it.
Places = Sequence[tuple[str, str]]


def find(folder: Path, places: Places, names: Sequence[str], stems: Sequence[str]) -> tuple[list[Path], list[Path]] | None:
    """Find one file a sample in the place that holds most of them.

    Args:
        folder: where the places lie.
        places: folders and endings, the preferred ones first.
        names: a file name a sample, used where the ending is "".
        stems: what an ending is put after.

    Returns:
        A path a sample and those of them that are not there; None if no place holds any.
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
    """Return `root` if it holds one of `markers`, else the one folder in it that does: archives differ in the name of their top folder.

    Raises:
        UserError: if several folders in it do.
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
    """Read a pair file: one sample a line, names between blanks or tabs; blank lines are skipped.

    Args:
        path: the file.
        columns: the numbers of columns that are accepted, the same in all lines.

    Raises:
        UserError: if the file is missing or not text, a line has another number of columns, or a name would leave the dataset's root.
    """
    pairs: list[tuple[str, ...]] = []
    for number, line in enumerate(read_lines(path), start=1):
        names = tuple(line.split())
        if not names:
            continue
        wanted = (len(pairs[0]),) if pairs else columns
        if len(names) not in wanted:
            some = " or ".join(str(count) for count in wanted)
            raise UserError(f"{path}, line {number}: has {len(names)} columns where {some} are wanted: {line.strip()!r}")
        refuse_leaving(path, number, names)
        pairs.append(names)
    return pairs


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file of any system.

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
    """Refuse names of line `number` of `path` that lead out of the dataset's folder.

    Raises:
        UserError: if one does.
    """
    for name in names:
        if leaves_root(name):
            raise UserError(f"{path}, line {number}: {name!r} leads out of the dataset's folder; take the line out")


def leaves_root(name: str) -> bool:
    """Tell whether a file name from a data file is absolute or climbs out of the folder that it is meant for."""
    parts = PurePosixPath(name.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or ":" in name or "\0" in name
