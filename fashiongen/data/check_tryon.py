"""`fashiongen data check` for try-on datasets: reports on the training and test halves, and where the reader would stop."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fashiongen.data.check import Finding, Report, do_each, require_folder
from fashiongen.data.images import Size, open_image, read_labels, read_mask
from fashiongen.data.listing import Listing, NotListed, TryOnRow, locate, mask_origin
from fashiongen.data.streettryon import clip_box, read_box, read_densepose
from fashiongen.data.tryon import TryOnData
from fashiongen.data.tryon_dataset import TryOnDataset
from fashiongen.errors import UserError

# The parts aligned pixel by pixel with the person's image, which should have its size.
ON_PERSON = ("mask", "agnostic", "parse", "densepose")
# The stage that reads each half.
STAGES = {"train": "fit", "test": "test"}
# Files that only need to be decodable are read at this size; masks are checked at the reader's size.
LOOKED_AT: Size = (16, 16)


@dataclass(frozen=True, kw_only=True)
class TryOnFinding(Finding):
    """A problem of a half.

    `kind` is one of missing, unreadable, mis-sized, duplicate, empty (an empty mask), outside (a box outside its
    photo), list (a pair file that cannot be used) and absent (a part that no sample has).
    """

    half: str
    path: str


@dataclass
class Half:
    """The usable samples of the training or the test half.

    Attributes:
        listed: samples that the pair files list.
        people: people whose photo can be read, and cropped if needed.
        paired: people whose own shop image can be read.
        unpaired: people for whom another garment is listed and can be read.
        masked: people whose agnostic mask can be read or derived, and is not empty.
        masks: the source of the masks.
        refused: the reader's error if it rejects the half (the training half for `fit`, the test half for `test`) or stops in it;
            empty if it reads all of it.
    """

    listed: int = 0
    people: int = 0
    paired: int = 0
    unpaired: int = 0
    masked: int = 0
    masks: str = "none"
    refused: str = ""


@dataclass
class TryOnReport(Report):
    """The report on a try-on dataset.

    It is usable if at least one half is listed, and every listed one can be read completely. The training half of a dataset without
    shop images does not count.

    Attributes:
        halves: the halves by name.
    """

    halves: dict[str, Half] = field(default_factory=dict)

    def find(self, kind: str, half: str, path: str | Path, message: str) -> None:
        """Add a finding."""
        self.findings.append(TryOnFinding(kind=kind, half=half, path=str(path), message=f"{half}: {message}"))

    @property
    def some_usable(self) -> bool:
        """Whether some person can be read, even if the reader stops at others."""
        return any(half.people for half in self.halves.values())

    def counted(self) -> list[str]:
        """Count the samples of each half, and say where the reader stops."""
        lines = [
            f"{name}: {half.listed} listed, {half.people} people readable; {half.paired} paired (with their own garment), "
            f"{half.unpaired} unpaired (with another garment), {half.masked} with a mask (from: {half.masks})"
            for name, half in self.halves.items()
        ]
        return [*lines, *(f"{name}: the reader stops: {half.refused}" for name, half in self.halves.items() if half.refused)]


@dataclass(frozen=True)
class _Look:
    """The result of reading one file: the size of an image, the digest of its bytes, its box, or the problem."""

    size: Size | None = None
    digest: str = ""
    box: tuple[int, int, int, int] | None = None
    problem: str = ""
    kind: str = "unreadable"


@dataclass(frozen=True)
class _Fault:
    """A problem of a sample whose files are all readable."""

    part: str
    kind: str
    path: Path
    problem: str


_Looks = dict[tuple[str, Path], _Look]


def check_tryon(data: type[TryOnData], root: str | Path, **options: Any) -> TryOnReport:  # noqa: ANN401  the DataModule's own
    """Read everything that a DataModule would read from `root`.

    Args:
        data: the DataModule.
        root: the folder, or its parent.
        options: further options of the DataModule, such as Dress Code's categories.

    Raises:
        UserError: if the folder is missing.
    """
    module = data(str(require_folder(data.layout, root)), **{"validation": 0, **options})
    module.root = locate(module.root, module.markers)
    report = TryOnReport(data.layout, str(module.root))
    listings = []
    for half in ("train", "test"):
        try:
            listings.append(module.listing(half))
        except UserError as error:
            report.find("list", half, module.root, str(error))
            if not isinstance(error, NotListed):
                report.halves[half] = Half(refused=str(error))
    looks = _look_at(module, listings)
    for listing in listings:
        faults = _faults(module, listing, looks)
        counted = _count(module, listing, looks, faults)
        counted.refused = _refused(module, listing, looks, faults)
        report.halves[listing.half] = counted
        _find(report, module, listing, looks, faults)
    _find_duplicates(report, listings, looks)
    serving = [half for name, half in report.halves.items() if name == "test" or module.has_shop_images]
    report.usable = bool(serving) and not any(half.refused for half in serving)
    return report


def _look_at(module: TryOnData, listings: Sequence[Listing]) -> _Looks:
    """Read every file once per role: a shop image can be one person's own garment and another's unpaired one."""
    wanted = dict.fromkeys((_reading(part), path) for listing in listings for row in listing.rows for part, path in row.parts().items())
    dataset = module.dataset_class([], module.size)
    return dict(zip(wanted, do_each(partial(_look, dataset), wanted, "reading"), strict=True))


def _reading(part: str) -> str:
    return "image" if part in ("person", "garment", "other", "agnostic") else part


def _look(dataset: TryOnDataset, wanted: tuple[str, Path]) -> _Look:
    """Read one file like the reader."""
    reading, path = wanted
    try:
        if reading == "pose":
            dataset.read_pose(path, LOOKED_AT, LOOKED_AT)
            return _Look()
        if reading == "box":
            return _Look(box=read_box(path))
        image = open_image(path)
        if reading == "parse":
            read_labels(path, LOOKED_AT)
        elif reading == "densepose":
            read_densepose(path, LOOKED_AT)
        elif reading == "garment_mask":
            read_mask(path, LOOKED_AT)
        elif reading == "mask" and not read_mask(path, dataset.size).any():
            return _Look(size=(image.height, image.width), problem=f"{path} marks no pixel", kind="empty")
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if reading == "image" else ""
        return _Look(size=(image.height, image.width), digest=digest)
    except (UserError, OSError) as error:
        return _Look(problem=str(error))


def _good(row: TryOnRow, looks: _Looks) -> set[str]:
    """Return the parts of a row without problems."""
    return {part for part, path in row.parts().items() if not looks[_reading(part), path].problem}


def _faults(module: TryOnData, listing: Listing, looks: _Looks) -> dict[str, _Fault]:
    """Crop full photos and derive missing masks like the reader; return the problems by sample id."""
    faults: dict[str, _Fault] = {}
    makeable: list[TryOnRow] = []
    for row in listing.rows:
        good = _good(row, looks)
        box, size = looks["box", row.box].box if row.box else None, looks["image", row.person].size
        if row.box and box and size:
            try:
                clip_box(row.box, box, size)
            except UserError as error:
                faults[row.id] = _Fault("box", "outside", row.box, str(error))
                continue
        made = row.mask is None and (row.agnostic is not None or module.unmaskable(row, listing) is None)
        if made and good >= row.parts().keys() & {"person", "box", "agnostic", "parse", "pose", "densepose"}:
            makeable.append(row)
    dataset = module.dataset_class([], module.size)

    def make(row: TryOnRow) -> str:
        try:
            dataset.read_agnostic_mask(row, dataset.open_person(row))
        except UserError as error:
            return str(error)
        return ""

    for row, problem in zip(makeable, do_each(make, makeable, f"making {listing.half} masks"), strict=True):
        if problem:
            faults[row.id] = _Fault("mask", "empty", row.agnostic or row.parse or row.person, problem)
    return faults


def _refused(module: TryOnData, listing: Listing, looks: _Looks, faults: dict[str, _Fault]) -> str:
    """Set up the reader; return its error, or the first problem at which it would stop; empty if it reads the whole half."""
    try:
        module.setup(STAGES[listing.half])
    except UserError as error:
        return str(error)
    for row in listing.rows:
        problems = [looks[_reading(part), path].problem for part, path in row.parts().items() if part != "other"]
        problems += [faults[row.id].problem] if row.id in faults else []
        if problem := next(filter(None, problems), ""):
            return problem
    return ""


def _count(module: TryOnData, listing: Listing, looks: _Looks, faults: dict[str, _Fault]) -> Half:
    half = Half(listed=len(listing.rows))
    origins: Counter[str] = Counter()
    for row in listing.rows:
        good, fault = _good(row, looks), faults.get(row.id)
        if "person" not in good or (row.box and "box" not in good) or (fault and fault.part == "box"):
            continue
        half.people += 1
        half.paired += "garment" in good
        half.unpaired += "other" in good
        origin = mask_origin(row)
        if origin == "file":
            masked = "mask" in good
        elif origin == "painted image":
            masked = "agnostic" in good and fault is None
        else:
            sources = row.parts().keys() & {"parse", "pose", "densepose"}
            masked = module.unmaskable(row, listing) is None and good >= sources and fault is None
        half.masked += masked
        origins[origin] += masked
    half.masks = ", ".join(sorted(+origins)) or "none"
    return half


def _find(report: TryOnReport, module: TryOnData, listing: Listing, looks: _Looks, faults: dict[str, _Fault]) -> None:
    """Report files that are missing, unreadable or of the wrong size, and samples that are listed twice."""
    half, rows = listing.half, listing.rows
    for id_ in listing.repeated:
        report.find("duplicate", half, listing.lists, f"{id_} is listed more than once in {listing.lists}")
    told: set[Path] = set()
    # A garment is reported for its own sample rather than for an unpaired one that uses it.
    named = [(row, part, path) for row in rows for part, path in row.parts().items()]
    for row, part, path in sorted(named, key=lambda entry: entry[1] == "other"):
        look = looks[_reading(part), path]
        if look.problem and path not in told:
            told.add(path)
            missing = not path.exists()
            words = f"{path} is missing" if missing else look.problem
            report.find("missing" if missing else look.kind, half, path, f"the {part} of {row.id}: {words}")
    for fault in faults.values():
        report.find(fault.kind, half, fault.path, fault.problem)
    _find_sizes(report, module, listing, looks)
    if rows and all(row.garment is None for row in rows) and module.has_shop_images:
        report.find("absent", half, module.lacks_garments(half), module.lacks_garments(half))
    # In Dress Code one folder may lack parts that others have.
    unmaskable = (module.unmaskable(row, listing) for row in rows if row.mask is None and row.agnostic is None)
    for problem in dict.fromkeys(filter(None, unmaskable)):
        report.find("absent", half, module.root, problem)


def _find_sizes(report: TryOnReport, module: TryOnData, listing: Listing, looks: _Looks) -> None:
    """Report images whose size differs from the image that they are aligned with, or from the dataset's others."""
    sizes: dict[str, Counter[Size]] = defaultdict(Counter)
    for row in listing.rows:
        for part in ("person", "garment"):
            path = getattr(row, part)
            if path and (size := looks["image", path].size):
                sizes[part][size] += 1
    usual = {part: counter.most_common(1)[0][0] for part, counter in sizes.items()}
    told: set[Path] = set()
    for row in listing.rows:
        person, garment = (looks["image", path].size if path else None for path in (row.person, row.garment))
        # Nothing is aligned with a full photo.
        wanted: dict[str, Size | None] = {} if row.box else dict.fromkeys(ON_PERSON, person)
        wanted["garment_mask"] = garment
        if module.uniform_size:
            wanted |= usual
        for part, path in row.parts().items():
            size = looks[_reading(part), path].size
            if size and (other := wanted.get(part)) and size != other and path not in told:
                told.add(path)
                whose = f"the other {part}s have" if part in usual else "its image has"
                words = f"{path} has {size[0]} x {size[1]} pixels (height x width), but {whose} {other[0]} x {other[1]}"
                report.find("mis-sized", listing.half, path, words)


def _find_duplicates(report: TryOnReport, listings: Sequence[Listing], looks: _Looks) -> None:
    """Report photos and shop images with the same bytes, within a half or in both (a leak)."""
    first: dict[tuple[str, str], tuple[str, Path]] = {}
    told: set[Path] = set()
    for listing in listings:
        for row in listing.rows:
            for part in ("person", "garment"):
                path = getattr(row, part)
                look = looks["image", path] if path else None
                if look is None or not look.digest:
                    continue
                half, same = first.setdefault((part, look.digest), (listing.half, path))
                if same != path and path not in told:
                    told.add(path)
                    leak = " (a leak: it is trained on)" if (half, listing.half) == ("train", "test") else ""
                    report.find("duplicate", listing.half, path, f"{path} is the same image as {same}{leak}")
