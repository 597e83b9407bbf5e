"""`fashiongen data check` for lists of tops and bottoms: what is missing, unreadable or double, and negatives that are none."""

import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track

from fashiongen.data.expreduced import ExpReduced
from fashiongen.data.fashiontaobaotb import FashionTaobaoTB
from fashiongen.data.fashionvc import FashionVC
from fashiongen.data.images import open_image
from fashiongen.data.listing import locate
from fashiongen.data.pairs import IMAGES, PairRow, TopBottomData, find_images, positives_of, read_rows
from fashiongen.errors import UserError
from fashiongen.records import write_atomically

LAYOUTS: dict[str, type[TopBottomData]] = {cls.layout: cls for cls in (FashionVC, ExpReduced, FashionTaobaoTB)}
SHOWN = 20
"""How many findings of a kind are printed; the JSON file holds all."""


@dataclass
class Split:
    """What one list holds.

    Attributes:
        rows: pairs listed.
        tops: different tops.
        bottoms: different positives.
        readable: pairs whose two images can be read; all of them where the folder has no images.
        repeated: rows that repeat a pair.
        repeated_negatives: rows whose negatives name a bottom twice.
        false_negatives: rows whose negatives name a positive of the same top.
        tops_of_training: tops that also stand in the training list.
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
class Report:
    """What a check found; `usable` tells whether all three lists can be read through, images included where there are any."""

    layout: str
    root: str
    images: int = 0
    usable: bool = False
    splits: dict[str, Split] = field(default_factory=dict)
    findings: list[dict[str, str]] = field(default_factory=list)

    def find(self, kind: str, split: str, message: str) -> None:
        """Add what is wrong."""
        self.findings.append({"kind": kind, "split": split, "message": message})

    @property
    def some_usable(self) -> bool:
        """Whether any pair can be read, though the reader stops at what is wrong with others."""
        return any(split.readable for split in self.splits.values())

    def lines(self) -> list[str]:
        """Return the report as text: findings, counts, verdict."""
        lines: list[str] = []
        kinds = Counter(finding["kind"] for finding in self.findings)
        for kind, count in kinds.items():
            messages = [f"{kind}: {finding['split']}: {finding['message']}" for finding in self.findings if finding["kind"] == kind]
            lines += [*messages[:SHOWN], *([f"{kind}: and {count - SHOWN} more"] if count > SHOWN else [])]
        for name, split in self.splits.items():
            lines.append(
                f"{name}: {split.rows} pairs, {split.tops} tops, {split.bottoms} bottoms, {split.readable} readable, "
                f"{split.repeated} repeated, {split.repeated_negatives} with a negative twice, {split.false_negatives} with a false one; "
                f"{split.tops_of_training} tops and {split.bottoms_of_training} bottoms of training"
            )
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none"
        verdict = "usable" if self.usable else "usable in part" if self.some_usable else "not usable"
        if self.usable and not self.images:
            verdict = "usable for methods that need no images (data.init_args.images=false)"
        return [*lines, f"findings: {counted}", f"{self.layout} at {self.root}: {verdict}"]


def run(layout: str, root: str | Path, *, strict: bool = False, json_file: str | Path | None = None) -> bool:
    """Check a folder, print the report, and write it as JSON if asked; tell whether any pair in it can be read.

    Raises:
        UserError: if the folder is not there.
    """
    report = check(layout, root)
    if json_file is not None:
        write_atomically(json_file, json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n")
    for line in report.lines():
        print(line)
    return (report.usable or report.some_usable) and not (strict and report.findings)


def check(layout: str, root: str | Path) -> Report:
    """Read all lists and images of a folder.

    Args:
        layout: a key of `LAYOUTS`.
        root: the folder, or the one around it.

    Raises:
        UserError: if the folder is not there.
    """
    if not Path(root).expanduser().is_dir():
        raise UserError(f"{root} is no folder; name the folder of a dataset in the layout {layout}")
    module = LAYOUTS[layout](str(root))
    module.root = locate(module.root, ("files", IMAGES))
    report = Report(layout, str(module.root))
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
    unreadable = any(finding["kind"] in ("missing", "unreadable") for finding in report.findings)
    report.usable = len(lists) == len(module.lists) and not unreadable
    return report


def _look_at(images: dict[str, Path]) -> dict[str, str]:
    """Decode every image; return what is wrong, by id."""

    def look(path: Path) -> str:
        try:
            open_image(path)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        shown = track(pool.map(look, images.values()), "reading", total=len(images), console=Console(stderr=True), transient=True)
        return {id_: problem for id_, problem in zip(images, shown, strict=True) if problem}


def _count(
    report: Report, split: str, rows: list[PairRow], trained: list[PairRow], found: dict[str, Path], problems: dict[str, str]
) -> Split:
    """Count one list and name what is wrong with it."""
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
