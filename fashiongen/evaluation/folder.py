"""A folder of images made by any code: which file belongs to which sample, and what is wrong with the files."""

from __future__ import annotations

import hashlib
import io
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from PIL import Image
from rich.progress import track

from fashiongen.data.images import UNREADABLE, Size, open_image, unreadable
from fashiongen.errors import UserError

Naming = Literal["id", "garment", "person_garment", "garment_person"]
NAMINGS: tuple[Naming, ...] = get_args(Naming)
"""What a file is named after: the sample's id or its input's name; the name of its garment; both, in either order."""

ENDINGS = (".png", ".jpg", ".jpeg")
SEPARATOR = re.compile(r"[_\-+&, ]+")
LOSSY = ("JPEG", "MPO")
"""Pillow's names of lossy formats, whatever the file is called."""

Names = Mapping[str, Mapping[str, str]]
"""Samples as `FashionData.sample_names` returns them."""


@dataclass(kw_only=True)
class Matching:
    """The files of the samples.

    Attributes:
        naming: what the files are named after.
        files: the file of each sample that has one, by id, in the order of the data.
        missing: ids of samples without a file.
        extra: images that belong to no sample.
        garments: for names with a garment how many name the sample's `own`, the `other` of an unpaired test, or one `unknown` to the data.
    """

    naming: Naming
    files: dict[str, Path]
    missing: list[str]
    extra: list[Path]
    garments: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """What an image file is: its size (height, width), whether its format is lossy, and the hash of its bytes."""

    path: Path
    size: Size
    lossy: bool
    sha256: str


def find_images(folder: Path) -> list[Path]:
    """Return the images of a folder, sorted by name; the case of their endings does not matter.

    Raises:
        UserError: if there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; judge takes a folder of images, or one written by `--evaluate.keep`")
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from error
    if not files:
        below = next((path.parent for path in sorted(folder.rglob("*")) if path.suffix.lower() in ENDINGS), None)
        hint = f"; there are some in {below}" if below else ""
        raise UserError(f"{folder}: holds no {', '.join(ENDINGS)}{hint}: give the folder that holds the images")
    return files


def match(files: Sequence[Path], names: Names, naming: Naming | None = None) -> Matching:
    """Match files with samples by their names.

    Args:
        files: images.
        names: the samples.
        naming: what files are named after; by default what matches the most samples.

    Raises:
        UserError: if no name matches, names can be read in two ways, or two files belong to the same sample.
    """
    readers = {"id": _by_id, "garment": _by_garment, "person_garment": _by_both, "garment_person": _by_both_reversed}
    found = {name: readers[name](files, names) for name in NAMINGS if naming in (None, name)}
    counts = {name: len({owner for owners in of_file.values() for owner in owners}) for name, of_file in found.items()}
    most = max(counts.values())
    if not most:
        shown, wanted = files[0].name, next(iter(names), "")
        how = f"by {naming}" if naming else "by their ids, their garments or both"
        raise UserError(
            f"no file of {files[0].parent} is named after a sample {how}: there is {shown}, the test's first sample is {wanted}"
        )
    best = [name for name in found if counts[name] == most]
    chosen = best[0]
    if set(best) == {"person_garment", "garment_person"}:
        # The order in which more files name the garment that the data pair with the person.
        listed = {name: sum(_garments(found[name], names, name)[role] for role in ("own", "other")) for name in best}
        if len(set(listed.values())) == 1 and found[best[0]] != found[best[1]]:
            raise UserError(
                f"{files[0]}: the names can be read as person_garment and as garment_person: say which by --names person_garment or "
                "--names garment_person"
            )
        chosen = max(best, key=lambda name: listed[name])
    of_sample: dict[str, list[Path]] = defaultdict(list)
    for file, owners in found[chosen].items():
        if len(owners) > 1:
            raise UserError(f"{file}: the name fits several samples, such as {' and '.join(owners[:2])}: name the files after the ids")
        of_sample[owners[0]].append(file)
    for id_, several in of_sample.items():
        if len(several) > 1:
            listing = ", ".join(path.name for path in several[:3])
            raise UserError(f"{files[0].parent}: {len(several)} files belong to the sample {id_}: {listing}; leave one")
    return Matching(
        naming=chosen,
        files={id_: of_sample[id_][0] for id_ in names if id_ in of_sample},
        missing=[id_ for id_ in names if id_ not in of_sample],
        extra=[file for file in files if file not in found[chosen]],
        garments=_garments(found[chosen], names, chosen),
    )


Owners = dict[Path, list[str]]
"""The samples that a file may belong to, by file; files that fit none are absent."""


def _by_id(files: Sequence[Path], names: Names) -> Owners:
    inputs = _ids_by(names, "input")
    return {file: ids for file in files if (ids := [file.stem] if file.stem in names else inputs.get(file.stem, []))}


def _by_garment(files: Sequence[Path], names: Names) -> Owners:
    own = _ids_by(names, "own")
    return {file: own[file.stem] for file in files if file.stem in own}


def _by_both(files: Sequence[Path], names: Names, *, person_first: bool = True) -> Owners:
    inputs, owners = _ids_by(names, "input"), {}
    for file in files:
        fitting: dict[str, bool] = {}
        for person, garment in _halves(file.stem, person_first=person_first):
            for id_ in [person] if person in names else inputs.get(person, []):
                fitting[id_] = fitting.get(id_, False) or garment in (names[id_].get("own"), names[id_].get("other"))
        # A name may split in several places: one that names a garment of the person is right.
        if fitting:
            owners[file] = [id_ for id_, listed in fitting.items() if listed] or list(fitting)
    return owners


def _by_both_reversed(files: Sequence[Path], names: Names) -> Owners:
    return _by_both(files, names, person_first=False)


def _ids_by(names: Names, role: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for id_, others in names.items():
        if role in others:
            found[others[role]].append(id_)
    return dict(found)


def _halves(stem: str, *, person_first: bool) -> Iterator[tuple[str, str]]:
    """Yield all ways to split a name into a person and a garment; image suffixes inside of it are removed."""
    plain = re.sub(r"\.(?:png|jpe?g)(?=[_\-+&, ]|$)", "", stem, flags=re.IGNORECASE)
    for separator in SEPARATOR.finditer(plain):
        first, second = plain[: separator.start()], plain[separator.end() :]
        if first and second:
            yield (first, second) if person_first else (second, first)


def _garments(owners: Owners, names: Names, naming: Naming) -> Counter[str]:
    """Count which garments the files name; empty if they name none."""
    counts: Counter[str] = Counter()
    if naming in ("id", "garment"):
        return counts
    for file, ids in owners.items():
        named = {garment for _, garment in _halves(file.stem, person_first=naming == "person_garment")}
        roles = [role for role in ("own", "other") if names[ids[0]].get(role) in named]
        counts[roles[0] if roles else "unknown"] += 1
    return counts


def inspect(files: Sequence[Path]) -> list[Inspected]:
    """Read files: their sizes, formats and hashes, in their order.

    Raises:
        UserError: naming the first that is no readable image, and how many there are.
    """
    with ThreadPoolExecutor(4) as pool:
        read = pool.map(_inspect, files)
        found = list(track(read, "reading", total=len(files), transient=True, disable=not sys.stdout.isatty()))
    broken = [one for one in found if isinstance(one, UserError)]
    if broken:
        more = f" ({len(broken)} such files)" if len(broken) > 1 else ""
        raise UserError(f"{str(broken[0]).partition('; ')[0]}{more}: make it again")
    return [one for one in found if isinstance(one, Inspected)]


def _inspect(path: Path) -> Inspected | UserError:
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            lossy = image.format in LOSSY
        upright = open_image(path)
    except UNREADABLE as error:
        return unreadable(path, error)
    except UserError as error:
        return error
    return Inspected(path=path, size=(upright.height, upright.width), lossy=lossy, sha256=hashlib.sha256(content).hexdigest())
