"""`fashiongen data check` for lists of tops and bottoms: missing, unreadable and duplicate files, and false negatives."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fashiongen.data.check import Finding, Report, do_each, require_folder
from fashiongen.data.images import open_image
from fashiongen.data.listing import locate
from fashiongen.data.pair_lists import PairRow, positives_of, read_rows
from fashiongen.data.pairs import IMAGES, TopBottomData, find_images
from fashiongen.errors import UserError

SHOWN = 20
"""Number of findings printed per kind; the JSON file holds all."""


@dataclass(frozen=True, kw_only=True)
class PairFinding(Finding):
    """A problem of a split."""

    split: str


@dataclass
class Split:
    """The counts of one list.

    Attributes:
        rows: pairs listed.
        tops: distinct tops.
        bottoms: distinct positives.
        readable: pairs whose two images can be read; all of them if the folder has no images.
        repeated: rows that repeat a pair.
        repeated_negatives: rows whose negatives name a bottom twice.
        false_negatives: rows whose negatives name a positive of the same top.
        tops_of_training: tops that are also in the training list.
        bottoms_of_training: positives that are also positives of the training list.
    """

    rows: int = 0
    tops: int = 0
    bottoms: int = 0
    readable: int = 0
    repeated: int = 0
    repeated_negatives: int = 0
    false_negatives: int = 0
    tops_of_training: int = 0
    bottoms_of_training: int = 0


@dataclass
class PairReport(Report):
    """The report on lists of tops and bottoms: usable if all three can be read completely, with any images.

    Attributes:
        images: number of images in the folder.
        splits: the splits by name.
    """

    images: int = 0
    splits: dict[str, Split] = field(default_factory=dict)

    def find(self, kind: str, split: str, message: str) -> None:
        """Add a finding."""
        self.findings.append(PairFinding(kind=kind, split=split, message=message))

    @property
    def some_usable(self) -> bool:
        """Whether some pair can be read, even if the reader stops at others."""
        return any(split.readable for split in self.splits.values())

    @property
    def verdict(self) -> str:
        """What the folder can be used for."""
        if self.usable and not self.images:
            return "usable for methods that need no images (data.init_args.images=false)"
        return super().verdict

    def found(self) -> list[str]:
        """Return the first findings of each kind."""
        lines: list[str] = []
        for kind, count in Counter(finding.kind for finding in self.findings).items():
            messages = [f"{kind}: {finding.split}: {finding.message}" for finding in self.findings if finding.kind == kind]
            lines += [*messages[:SHOWN], *([f"{kind}: and {count - SHOWN} more"] if count > SHOWN else [])]
        return lines

    def counted(self) -> list[str]:
        """Count the pairs of each split."""
        return [
            f"{name}: {split.rows} pairs, {split.tops} tops, {split.bottoms} bottoms, {split.readable} readable, "
            f"{split.repeated} repeated, {split.repeated_negatives} with a negative twice, {split.false_negatives} with a false one; "
            f"{split.tops_of_training} tops and {split.bottoms_of_training} bottoms of training"
            for name, split in self.splits.items()
        ]


def check_pairs(data: type[TopBottomData], root: str | Path) -> PairReport:
    """Read all lists and images of a folder.

    Args:
        data: the DataModule.
        root: the folder, or its parent.

    Raises:
        UserError: if the folder is missing.
    """
    module = data(str(require_folder(data.layout, root)))
    module.root = locate(module.root, module.markers)
    report = PairReport(data.layout, str(module.root))
    lists: dict[str, list[PairRow]] = {}
    for split in module.lists:
        try:
            lists[split] = read_rows(module.list_of(split))
        except UserError as error:
            report.find("list", split, str(error))
    found = find_images(module.root / IMAGES) if (module.root / IMAGES).is_dir() else {}
    report.images = len(found)
    if not found:
        report.find("absent", "all", f"{module.root / IMAGES} holds no images")
    wanted = {id_ for rows in lists.values() for row in rows for id_ in (row.top, row.bottom, *row.negatives)}
    problems = _look_at({id_: path for id_, path in found.items() if id_ in wanted})
    trained = lists.get("train", [])
    for split, rows in lists.items():
        report.splits[split] = _count(report, split, rows, trained, found, problems)
    unreadable = any(finding.kind in ("missing", "unreadable") for finding in report.findings)
    report.usable = len(lists) == len(module.lists) and not unreadable
    return report


def _look_at(images: dict[str, Path]) -> dict[str, str]:
    """Decode every image; return the problems by id."""

    def look(path: Path) -> str:
        try:
            open_image(path)
        except UserError as error:
            return str(error)
        return ""

    return {id_: problem for id_, problem in zip(images, do_each(look, images.values(), "reading"), strict=True) if problem}


def _count(
    report: PairReport, split: str, rows: list[PairRow], trained: list[PairRow], found: dict[str, Path], problems: dict[str, str]
) -> Split:
    """Count the pairs of one list and report its problems."""
    named = dict.fromkeys(id_ for row in rows for id_ in (row.top, row.bottom, *(row.negatives if split == "test" else ())))
    for id_ in named:
        if found and id_ not in found:
            report.find("missing", split, f"the image of {id_} is missing")
        elif id_ in problems:
            report.find("unreadable", split, problems[id_])
    positives = positives_of(rows)
    pairs = Counter((row.top, row.bottom) for row in rows)
    counted = Split(
        rows=len(rows),
        tops=len(positives),
        bottoms=len({row.bottom for row in rows}),
        readable=sum(not found or all(id_ in found and id_ not in problems for id_ in (row.top, row.bottom)) for row in rows),
        repeated=len(rows) - len(pairs),
    )
    for row in rows:
        if len(set(row.negatives)) < len(row.negatives):
            counted.repeated_negatives += 1
            report.find("duplicate negative", split, f"the row {row.id} names a negative twice")
        if wrong := sorted(set(row.negatives) & set(positives[row.top])):
            counted.false_negatives += 1
            report.find(
                "false negative", split, f"the row {row.id} names {wrong[0]} as a negative, which is worn with its top in another row"
            )
    for (top, bottom), count in pairs.items():
        if count > 1:
            report.find("duplicate", split, f"the pair {top}, {bottom} is listed {count} times")
    if split != "train":
        counted.tops_of_training = len(positives.keys() & {row.top for row in trained})
        counted.bottoms_of_training = len({row.bottom for row in rows} & {row.bottom for row in trained})
    return counted
