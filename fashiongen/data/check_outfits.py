"""`fashiongen data check` for outfits of users: lists that contradict each other, missing and unreadable images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fashiongen.data.check import Finding, Report, do_each, require_folder
from fashiongen.data.images import open_image
from fashiongen.data.listing import locate
from fashiongen.data.outfit_images import ImageFinder
from fashiongen.data.outfit_lists import BLANK, STEMS, History, OutfitLists, OutfitRow
from fashiongen.data.outfits import OutfitData
from fashiongen.errors import UserError

SHOWN = 20
"""Number of findings printed per kind; the JSON file holds all."""


@dataclass(frozen=True, kw_only=True)
class OutfitFinding(Finding):
    """A problem of a split."""

    split: str


@dataclass
class Split:
    """The counts of one list.

    Attributes:
        outfits: outfits that agree with the other lists.
        wrong: outfits that contradict them.
        users: distinct users.
        items: distinct items of the outfits.
        categories: distinct categories of the outfits.
        readable: number of outfits in which every item has a readable image; all outfits if the folder has no images.
        repeated: outfits that repeat a user and an outfit.
        with_candidates: outfits with candidates for the missing item.
        without_history: slots of missing items in whose category the user has no history.
        true_in_history: outfits whose missing item is in the user's history.
        items_of_training: items that are also in training outfits.
    """

    outfits: int = 0
    wrong: int = 0
    users: int = 0
    items: int = 0
    categories: int = 0
    readable: int = 0
    repeated: int = 0
    with_candidates: int = 0
    without_history: int = 0
    true_in_history: int = 0
    items_of_training: int = 0


@dataclass
class OutfitReport(Report):
    """The report on outfits: usable if all three splits can be read completely, with any images.

    Attributes:
        images: number of items that have an image.
        splits: the splits by name.
    """

    images: int = 0
    splits: dict[str, Split] = field(default_factory=dict)

    def find(self, kind: str, split: str, message: str) -> None:
        """Add a finding."""
        self.findings.append(OutfitFinding(kind=kind, split=split, message=message))

    @property
    def some_usable(self) -> bool:
        """Whether some outfit can be read, even if the reader stops at others."""
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
        """Count the outfits of each split."""
        return [
            f"{name}: {split.outfits} outfits of {split.users} users, {split.items} items in {split.categories} categories, "
            f"{split.readable} readable, {split.wrong} wrong, {split.repeated} repeated, {split.with_candidates} with candidates; "
            f"{split.without_history} missing items without a history, {split.true_in_history} that are in it; "
            f"{split.items_of_training} items of training"
            for name, split in self.splits.items()
        ]


def check_outfits(data: type[OutfitData], root: str | Path) -> OutfitReport:
    """Read all lists and images of a folder.

    Args:
        data: the DataModule.
        root: the folder, or its parent.

    Raises:
        UserError: if the folder is missing.
    """
    module = data(str(require_folder(data.layout, root)))
    folder = locate(module.root, module.markers)
    lists, report = OutfitLists(folder, module.layout), OutfitReport(module.layout, str(folder))
    rows: dict[str, list[OutfitRow]] = {}
    histories: dict[str, History] = {}
    for split in STEMS:
        wrong: list[str] = []
        try:
            rows[split] = lists.rows(split, wrong.append)
            histories[split] = lists.history(split) or {}
            lists.frequencies(split)
        except UserError as error:
            report.find("list", split, str(error))
        for message in wrong:
            report.find("wrong", split, message)
        report.splits[split] = Split(wrong=len(wrong))
    try:
        paths = _find(report, ImageFinder(lists, folder, None, module.flat), rows, histories)
    except UserError as error:
        report.find("list", "all", str(error))
        paths = {}
    problems = _look_at(paths)
    trained = {item for row in rows.get("train", []) for item in row.truth}
    for split, of_split in rows.items():
        _count(report, split, of_split, histories.get(split, {}), trained, paths, problems)
    unusable = any(finding.kind not in ("repeated", "absent") for finding in report.findings)
    report.usable = len(rows) == len(STEMS) and not unusable
    return report


def _find(
    report: OutfitReport, finder: ImageFinder, rows: Mapping[str, list[OutfitRow]], histories: Mapping[str, History]
) -> dict[int, Path]:
    """Find the images of all items of outfits, candidates and histories, and report those that are missing.

    Raises:
        UserError: if a list that says where images are is damaged, or a path leaves the folder.
    """
    found: dict[int, Path] = {}
    absent: list[tuple[str, int]] = []
    for split, of_split in rows.items():
        users = {row.user for row in of_split}
        past = (items for user, of_user in histories.get(split, {}).items() if user in users for items in of_user.values())
        wanted = dict.fromkeys(item for row in of_split for item in (*row.truth, *(row.candidates if split == "test" else ())))
        wanted |= dict.fromkeys(item for items in past for item in items)
        found |= finder.find_all(item for item in wanted if item not in found)
        absent += [(split, item) for item in wanted if item not in found]
    report.images = len(found)
    if not found:
        report.find("absent", "all", f"{finder.folder} holds no images of the items")
        return found
    for split, item in absent:
        report.find("missing", split, f"the image of {item} is missing")
    return found


def _look_at(images: Mapping[int, Path]) -> dict[int, str]:
    """Decode every image; return the problems by item."""

    def look(path: Path) -> str:
        try:
            open_image(path)
        except UserError as error:
            return str(error)
        return ""

    return {item: problem for item, problem in zip(images, do_each(look, images.values(), "reading"), strict=True) if problem}


def _count(
    report: OutfitReport,
    split: str,
    rows: list[OutfitRow],
    history: History,
    trained: set[int],
    paths: Mapping[int, Path],
    problems: Mapping[int, str],
) -> None:
    """Count the outfits of one list and report the rest of its problems."""
    items = dict.fromkeys(item for row in rows for item in row.truth)
    for item in items:
        if item in problems:
            report.find("unreadable", split, problems[item])
    counted, keys = report.splits[split], Counter((row.user, row.outfit) for row in rows)
    for (user, outfit), count in keys.items():
        if count > 1:
            report.find("repeated", split, f"outfit {outfit} of user {user} is listed {count} times")
    blanks = [(row, slot) for row in rows for slot, item in enumerate(row.items) if item == BLANK]
    past = [history.get(row.user, {}).get(row.categories[slot], ()) for row, slot in blanks]
    counted.outfits = len(rows)
    counted.users = len({row.user for row in rows})
    counted.items = len(items)
    counted.categories = len({number for row in rows for number in row.categories})
    counted.readable = sum(not paths or all(item in paths and item not in problems for item in row.truth) for row in rows)
    counted.repeated = len(rows) - len(keys)
    counted.with_candidates = sum(bool(row.candidates) for row in rows)
    counted.without_history = sum(not of_blank for of_blank in past)
    counted.true_in_history = sum(row.truth[slot] in of_blank for (row, slot), of_blank in zip(blanks, past, strict=True))
    counted.items_of_training = len(items.keys() & trained) if split != "train" else 0
