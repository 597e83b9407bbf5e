"""Boards: the records of a benchmark put in order, what may be compared side by side. Imports no torch, so that it starts at once.

A *board* holds what may share columns: one task, data set, split and protocol, the same files of data and the same true pictures.
A *row* is a recipe with its overlays; its seeds are one row.
A *column* is a metric by its reported name, which carries its feature extractor.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from fashiongen.benchmark.published import Published
from fashiongen.benchmark.statistics import Difference, mean_over_seeds, paired_bootstrap
from fashiongen.errors import UserError
from fashiongen.records import MetricEntry, Record

Rank = Literal["best", "second"]
# Values this close, relative to the larger one, are the same: they differ by rounding alone.
SAME = 1e-9
WAYS = {True: "higher is better", False: "lower is better", None: "neither is better"}
UNTESTED_SET = "untested: a metric of the whole set has no values per sample"
UNTESTED_MISSING = "untested: no values per sample"
UNTESTED_OTHER = "untested: not the same samples as the best"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A record and the folder that it lies in; `stale`: the suite plans its node with other settings, data or code."""

    record: Record
    folder: Path
    stale: bool = False

    def file(self, name: str | None) -> Path | None:
        """Return a file or folder that the record names, if it is there and inside the record's folder."""
        if not name:
            return None
        try:
            path = (self.folder / name).resolve()
            return path if path.is_relative_to(self.folder.resolve()) and path.exists() else None
        except (OSError, ValueError, RuntimeError):  # no name of a file: too long, with a NUL, or links in a circle
            return None

    @property
    def log(self) -> Path | None:
        """The log of the node."""
        return self.file(self.record.log) or self.file("log.txt")


@dataclass(frozen=True, kw_only=True)
class Node:
    """What became of one node; `run` is None where no record can be read.

    `status` is the record's, or damaged, waiting (planned and without a record), or unplanned (a record that the suite knows nothing of).
    `test` are the task, the data set and the protocol of a test, as the record or the plan tells them; empty where neither does.
    """

    id: str
    kind: str
    status: str
    reason: str | None
    run: Run | None
    test: tuple[str, str, str] = ("", "", "")


@dataclass(kw_only=True)
class Cell:
    """A metric of a row.

    Attributes:
        value: mean over the seeds; None where a seed has no finite value.
        interval: of 95 %, or None.
        over: what the interval is over: `3 seeds` or `300 samples`; empty without one.
        rank: whether it is the best or the second best of its column; those that share the best place leave none for a second.
        difference: to the best, over paired samples.
        untested: why there is no difference.
        note: what else there is to say.
    """

    value: float | None
    interval: tuple[float, float] | None
    over: str
    rank: Rank | None = None
    difference: Difference | None = None
    untested: str | None = None
    note: str | None = None


@dataclass(kw_only=True)
class Column:
    """A metric: `key` is `name`, with what records of one board disagree about: the weights, or which way is better.

    `decimals` are how many to show. Where `higher_is_better` is None nothing is best.
    """

    key: str
    name: str
    higher_is_better: bool | None
    weights: str
    decimals: int = 4


@dataclass(kw_only=True)
class Row:
    """A recipe with its overlays on one board: its runs in the order of their seeds, their trainings, and those that these began from."""

    name: str
    runs: list[Run]
    fits: list[Run]
    parent_fits: list[Run]
    cells: dict[str, Cell] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def mean(self, field_name: Literal["seconds_per_sample", "peak_memory_bytes"]) -> float | None:
        """Return the mean of a record's field over the seeds, None where one lacks it."""
        values = [getattr(run.record, field_name) for run in self.runs]
        return None if None in values else math.fsum(values) / len(values)

    @property
    def fit_seconds(self) -> float | None:
        """Mean time of training, over the seeds, without that of the parents."""
        values = [run.record.fit_seconds for run in self.fits if run.record.fit_seconds is not None]
        return math.fsum(values) / len(values) if values else None

    @property
    def parents_fit_seconds(self) -> float | None:
        """Mean time a seed of the trainings that these began from, all together."""
        values = [run.record.fit_seconds for run in self.parent_fits if run.record.fit_seconds is not None]
        return math.fsum(values) / len(self.fits) if values else None

    @property
    def parameters(self) -> int | None:
        """Number of parameters in total."""
        return self.runs[0].record.parameters.get("total")


@dataclass(kw_only=True)
class Board:
    """What may be compared; `absent` are the nodes that would have been rows of it, `notes` what else to know of the whole."""

    task: str
    dataset: str
    split: str
    protocol: str
    conditions: dict[str, str]
    label: str
    protocol_text: str | None
    columns: list[Column]
    rows: list[Row]
    absent: list[Node]
    published: list[Published]
    notes: list[str]

    def unlike(self, block: Published) -> list[str]:
        """Return in what published numbers differ from this board, as far as both tell; only where it is nothing may one compare."""
        told = ["another protocol"] if block.protocol != self.protocol else []
        told += ["another data set"] if block.dataset != self.dataset else []
        told += ["the data here are the embedded world's"] if "world" in self.conditions else []
        ours = {"split": self.split, **self.conditions}
        for name, theirs in (("split", block.split), ("samples", block.samples), ("size", block.size)):
            if theirs and ours.get(name, theirs) != theirs:
                told.append(f"{name} {theirs} (here {ours[name]})")
        return told


@dataclass(kw_only=True)
class Leaderboard:
    """All boards and nodes of a folder."""

    folder: Path
    name: str
    suite_sha256: str | None
    boards: list[Board]
    nodes: list[Node]


def read(folder: Path, published: Sequence[Published] = ()) -> Leaderboard:
    """Read the records of `folder/nodes` and put them in order.

    Raises:
        UserError: if there is no record.
    """
    suite = _suite(folder / "suite.json")
    nodes = _nodes(folder, suite)
    if not nodes:
        raise UserError(f"{folder}: no records there (nodes/*/record.json); `fashiongen bench run SUITE --out {folder}` writes them")
    tests = [node for node in nodes if node.kind == "test"]
    fits = _Fits([node.run for node in nodes if node.kind == "fit" and node.run is not None and node.status == "ok"])
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for node in tests:
        if node.status == "ok" and node.run is not None:
            groups[_board_key(node.run.record)].append(node.run)
    boards = []
    for key in sorted(groups):
        alike = sorted(other for other in groups if other[:4] == key[:4])
        boards.append(_board(groups[key], fits, tests, published, number=alike.index(key) + 1 if len(alike) > 1 else None))
    with_result = {key[:2] + key[3:4] for key in groups}
    for test in sorted({node.test for node in tests if node.status not in ("ok", "unplanned") and node.test[0]} - with_result):
        boards.append(_empty_board(test, tests, published))
    return Leaderboard(
        folder=folder,
        name=str(suite.get("name") or suite.get("suite") or folder.resolve().name),
        suite_sha256=suite.get("sha256") if isinstance(suite.get("sha256"), str) else None,
        boards=boards,
        nodes=nodes,
    )


def _suite(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); `fashiongen bench run` writes it anew") from error
    return content if isinstance(content, dict) else {}


def _nodes(folder: Path, suite: dict[str, Any]) -> list[Node]:
    """Return all nodes: those that left a record, those whose record cannot be read, and those of the plan that left none."""
    listed = suite.get("nodes")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    planned = {entry["id"]: entry for entry in entries if isinstance(entry.get("id"), str)}
    # A plan without keys cannot tell what is stale.
    keyed = any(isinstance(entry.get("key"), str) for entry in planned.values())
    nodes = []
    for path in sorted((folder / "nodes").glob("*/record.json")):
        name = path.parent.name
        entry = planned.pop(name, None)
        try:
            record = Record.read(path)
        except UserError as error:
            planned_as = entry or {"kind": name.partition("--")[0]}
            nodes.append(_unread(name, planned_as, "damaged", str(error)))
            continue
        status: str = record.status
        reason = record.reason
        if keyed and entry is None:
            status, reason = "unplanned", f"not in the suite any more; its record says {status}" + (f": {reason}" if reason else "")
        stale = entry is not None and entry.get("key") not in (None, record.key)
        run, test = Run(record=record, folder=path.parent, stale=stale), (record.task, record.dataset, record.protocol)
        nodes.append(Node(id=name, kind=record.kind, status=status, reason=reason, run=run, test=test))
    for id_, entry in planned.items():
        skipped = entry.get("skipped") or entry.get("reason")
        status, reason = ("skipped", str(skipped)) if skipped else ("waiting", "planned, and not run yet")
        nodes.append(_unread(id_, entry, status, reason))
    return nodes


def _unread(id_: str, entry: dict[str, Any], status: str, reason: str) -> Node:
    """Return a node without a record, of which its entry in the plan tells."""
    task, dataset, protocol = (str(entry.get(name) or "") for name in ("task", "dataset", "protocol"))
    return Node(id=id_, kind=str(entry.get("kind", "")), status=status, reason=reason, run=None, test=(task, dataset, protocol))


def _board_key(record: Record) -> tuple[str, ...]:
    return (record.task, record.dataset, record.split, record.protocol, json.dumps(_conditions(record), sort_keys=True))


def _conditions(record: Record) -> dict[str, str]:
    """Return what must be the same for two numbers to be compared, beside the protocol.

    Where pictures are made they are judged at the data's size. A retrieval method looks at pictures of the size that it likes.
    """
    reference = record.reference or {}
    return {
        "world": record.data.get("world", ""),
        "data": record.data.get("fingerprint", "")[:12],
        "masks": record.data.get("masks", ""),
        "size": "" if record.task == "retrieval" else record.data.get("size", ""),
        "samples": str(record.n_samples),
        "reference": " ".join(reference.get(key, "") for key in ("dataset", "split", "field", "size")).strip(),
        "reference_data": reference.get("fingerprint", "")[:12],
        "protocol_settings": (record.protocol_sha256 or "")[:12],
    }


def overlays(record: Record) -> list[str]:
    """Return a record's overlays without the files of `recipes/tasks`, which name the protocol and not the method."""
    return [overlay for overlay in record.overlays if PurePosixPath(overlay).parent.name != "tasks"]


def _row_key(record: Record) -> tuple[str, ...]:
    return (record.recipe or record.method, *overlays(record))


def _row_name(key: Sequence[str], *, whole: bool = False) -> str:
    return " + ".join(part if whole else PurePosixPath(part).name.removesuffix(".yaml") or part for part in key)


class _Fits:
    """The trainings of a folder, by what they left."""

    def __init__(self, fits: list[Run]) -> None:
        self._by_hash: dict[str, Run] = {}
        self._by_path: dict[str, Run] = {}
        self._by_name: dict[tuple[tuple[str, ...], int | None], Run] = {}
        for fit in fits:
            left = fit.record.checkpoint or {}
            if "sha256" in left:
                self._by_hash[left["sha256"]] = fit
            else:
                self._by_name[_row_key(fit.record), fit.record.seed] = fit
            if "path" in left:
                self._by_path[left["path"]] = fit

    def of(self, run: Run) -> Run | None:
        """Return the training whose checkpoint was tested; one that does not tell its hash goes by its recipe, overlays and seed."""
        tested = (run.record.checkpoint or {}).get("sha256", "")
        return self._by_hash.get(tested) or self._by_name.get((_row_key(run.record), run.record.seed))

    def parents(self, fit: Run) -> list[Run]:
        """Return the trainings that one began from, and those that these did."""
        found: dict[Path, Run] = {}
        waiting = [fit]
        while waiting:
            for path in waiting.pop().record.parents.values():
                parent = self._by_path.get(path)
                if parent is not None and parent.folder not in (*found, fit.folder):
                    found[parent.folder] = parent
                    waiting.append(parent)
        return list(found.values())


def _board(runs: list[Run], fits: _Fits, tests: list[Node], published: Sequence[Published], number: int | None) -> Board:
    first = runs[0].record
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[_row_key(run.record)].append(run)
    names = [_row_name(key) for key in groups]
    rows = []
    for (key, found), name in zip(groups.items(), names, strict=True):
        mine, notes = _one_a_seed(found)
        trained = [fit for run in mine if (fit := fits.of(run)) is not None]
        row = Row(
            name=_row_name(key, whole=True) if names.count(name) > 1 else name,
            runs=mine,
            fits=trained,
            parent_fits=[parent for fit in trained for parent in fits.parents(fit)],
            notes=notes,
        )
        if len({run.record.source_sha256 for run in mine}) > 1:
            row.notes.append("its seeds were run by different versions of the code")
        if seeds := ", ".join(str(run.record.seed) for run in mine if run.stale):
            row.notes.append(f"of other settings, data or code than the suite plans: seed {seeds}")
        row.notes += list(dict.fromkeys(run.record.reason for run in mine if run.record.reason))
        rows.append(row)
    rows.sort(key=lambda row: row.name)
    versions = {run.record.source_sha256 for row in rows for run in row.runs}
    columns = _columns(runs)
    samples = {id(run): per_sample(run) for run in runs}
    for column in columns:
        _fill(column, rows)
    _compare(columns, rows, samples)
    conditions = {name: told for name, told in _conditions(first).items() if told}
    world, counted = f", {conditions['world']}" if "world" in conditions else "", f" ({number})" if number else ""
    return Board(
        task=first.task,
        dataset=first.dataset,
        split=first.split,
        protocol=first.protocol,
        conditions=conditions,
        label=f"{first.task} on {first.dataset}{world}{counted}",
        protocol_text=protocol_text(first.protocol, [run.record.recipe for run in runs]),
        columns=columns,
        rows=rows,
        absent=_absent(tests, (first.task, first.dataset, first.protocol)),
        published=_beside(published, first.task, first.dataset),
        notes=["Its rows were run by different versions of the code."] if len(versions) > 1 else [],
    )


def _empty_board(test: tuple[str, str, str], tests: list[Node], published: Sequence[Published]) -> Board:
    """Return the board of a task whose every test failed."""
    task, dataset, protocol = test
    absent = _absent(tests, test)
    return Board(
        task=task,
        dataset=dataset,
        split="",
        protocol=protocol,
        conditions={},
        label=f"{task} on {dataset}",
        protocol_text=protocol_text(protocol, [node.run.record.recipe for node in absent if node.run]),
        columns=[],
        rows=[],
        absent=absent,
        published=_beside(published, task, dataset),
        notes=["No test of it has a result."],
    )


def _absent(tests: list[Node], test: tuple[str, str, str]) -> list[Node]:
    return [node for node in tests if node.status not in ("ok", "unplanned") and node.test == test]


def _beside(published: Sequence[Published], task: str, dataset: str) -> list[Published]:
    """Return the published numbers for a task and a data set, or for another part of the same: what follows a dash is a part."""
    return [block for block in published if block.task == task and block.dataset.partition("-")[0] == dataset.partition("-")[0]]


def _one_a_seed(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Return one run a seed, the one that started last, and what that leaves out: repeats of a seed are no independent draws."""
    by_seed: dict[int | None, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.record.started or "", run.folder.name)):
        by_seed[run.record.seed].append(run)
    notes = [f"{len(found)} records of seed {seed}: the last one counts" for seed, found in by_seed.items() if len(found) > 1]
    order = sorted(by_seed, key=lambda seed: -1 if seed is None else seed)
    return [by_seed[seed][-1] for seed in order], notes


def _says(record: Record, name: str) -> tuple[str, bool | None]:
    """Return what must be the same in one column: the weights of the metric's extractor, and which way is better."""
    return record.extractors.get(name, {}).get("sha256", "unknown"), record.metrics[name]["higher_is_better"]


def _columns(runs: list[Run]) -> list[Column]:
    """Return the columns in the order in which the records name them; metrics of one name that are not the same get one each."""
    found: dict[str, dict[tuple[str, bool | None], None]] = {}
    for run in runs:
        for name in run.record.metrics:
            found.setdefault(name, {})[_says(run.record, name)] = None
    columns = []
    for name, kinds in found.items():
        weights, ways = {sha256 for sha256, _ in kinds}, {higher for _, higher in kinds}
        for sha256, higher in kinds:
            key = name + (f" weights {sha256[:8]}" if len(weights) > 1 else "") + (f" ({WAYS[higher]})" if len(ways) > 1 else "")
            columns.append(Column(key=key, name=name, higher_is_better=higher, weights=sha256))
    return columns


def entry_of(run: Run, column: Column) -> MetricEntry | None:
    """Return what a record says of a column's metric."""
    known = column.name in run.record.metrics and _says(run.record, column.name) == (column.weights, column.higher_is_better)
    return run.record.metrics[column.name] if known else None


def _fill(column: Column, rows: list[Row]) -> None:
    """Give each row that has the metric its cell, and mark the best and the second best."""
    for row in rows:
        entries = [entry for run in row.runs if (entry := entry_of(run, column)) is not None]
        if not entries:
            continue
        values = [entry["value"] for entry in entries if entry["value"] is not None]
        cell = Cell(value=None, interval=None, over="")
        if len(values) < len(entries):
            cell.note = "not a number: a prediction was not finite, or there was nothing to average"
        elif len(values) > 1:
            cell.value, cell.interval = mean_over_seeds(values)
            cell.over = f"{len(values)} seeds"
        else:
            cell.value, ends = values[0], entries[0]["ci95"]
            cell.interval = (ends[0], ends[1]) if ends is not None and len(ends) == 2 else None
            cell.over = f"{row.runs[0].record.n_samples} samples" if cell.interval else ""
        if len(entries) < len(row.runs):
            cell.note = f"{len(entries)} of {len(row.runs)} seeds have this metric"
        row.cells[column.key] = cell
    cells = [row.cells[column.key] for row in rows if column.key in row.cells]
    if column.higher_is_better is not None:
        mark(cells, higher_is_better=column.higher_is_better)
    smallest = min((abs(cell.value) for cell in cells if cell.value), default=None)
    column.decimals = 4 if smallest is None else min(max(3 - math.floor(math.log10(smallest)), 0), 6)


def mark(cells: Sequence[Cell], *, higher_is_better: bool) -> None:
    """Mark the best and the second best of a column; equal values share a place, and two best leave no second."""
    ranked = [(cell.value if higher_is_better else -cell.value, cell) for cell in cells if cell.value is not None]
    ranked.sort(key=lambda pair: -pair[0])
    for value, cell in ranked:
        above = sum(other > value and not math.isclose(other, value, rel_tol=SAME) for other, _ in ranked)
        cell.rank = "best" if above == 0 else "second" if above == 1 else None


# ---- paired samples


@dataclass(frozen=True)
class Samples:
    """Values per sample: ids in order, and by metric an array that is NaN where there is no value."""

    ids: tuple[str, ...]
    values: dict[str, NDArray[np.float64]]


def per_sample(run: Run) -> Samples | None:
    """Read the values per sample of a record; None where there are none that can be read."""
    path = run.file(run.record.per_sample)
    if path is None:
        return None
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        by_id = {line["id"]: line for line in lines}
        ids = tuple(sorted(by_id))
        names = dict.fromkeys(name for line in lines for name in line if name != "id")
        values = {
            name: np.array([math.nan if (value := by_id[id_].get(name)) is None else float(value) for id_ in ids], dtype=np.float64)
            for name in names
        }
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return Samples(ids, values)


def _row_samples(row: Row, column: Column, samples: dict[int, Samples | None]) -> tuple[tuple[str, ...], NDArray[np.float64]] | str:
    """Return the ids and the mean of each over the row's seeds, or why there are none."""
    parts = []
    for run in row.runs:
        found, entry = samples[id(run)], entry_of(run, column)
        if entry is None or found is None:
            return UNTESTED_MISSING
        if column.name not in found.values:
            return UNTESTED_SET
        parts.append(found)
    if len({part.ids for part in parts}) > 1:
        return UNTESTED_OTHER
    return parts[0].ids, np.mean([part.values[column.name] for part in parts], axis=0)


def _compare(columns: list[Column], rows: list[Row], samples: dict[int, Samples | None]) -> None:
    """Test each cell against the best of its column over the same samples, all of one set of ids with the same draws."""
    waiting: dict[tuple[str, ...], list[tuple[Cell, NDArray[np.float64]]]] = defaultdict(list)
    for column in columns:
        with_cell = [row for row in rows if column.key in row.cells and row.cells[column.key].value is not None]
        best = next((row for row in with_cell if row.cells[column.key].rank == "best"), None)
        if best is None:
            continue
        target = _row_samples(best, column, samples)
        for row in with_cell:
            cell = row.cells[column.key]
            if row is best:
                continue
            mine = _row_samples(row, column, samples)
            if isinstance(target, str) or isinstance(mine, str):
                cell.untested = mine if isinstance(mine, str) else f"{target} of the best" if isinstance(target, str) else None
            elif mine[0] != target[0]:
                cell.untested = UNTESTED_OTHER
            else:
                rounding = np.isclose(mine[1], target[1], rtol=SAME, atol=0.0)
                waiting[mine[0]].append((cell, np.where(rounding, 0.0, mine[1] - target[1])))
    for found in waiting.values():
        tested = paired_bootstrap(np.stack([difference for _, difference in found], axis=1))
        for (cell, _), difference in zip(found, tested, strict=True):
            cell.difference = difference
            cell.untested = None if difference else "untested: fewer than two samples have a value"


def apart(cell: Cell) -> bool | None:
    """Tell whether the interval of the difference to the best leaves out 0; None where that is not tested."""
    return None if cell.difference is None else not cell.difference.low <= 0.0 <= cell.difference.high


# ---- protocols


def protocol_text(protocol: str, recipes: Iterable[str | None]) -> str | None:
    """Return the file of `recipes/tasks` that states a protocol in full, found beside the recipes, else below the current folder."""
    places = [folder for recipe in recipes if recipe for folder in list(Path(recipe).absolute().parents)[:2]]
    if not protocol or PurePosixPath(protocol).name != protocol:
        return None
    for place in dict.fromkeys([*places, Path("recipes").absolute()]):
        file = place / "tasks" / f"{protocol}.yaml"
        try:
            text = file.read_text(encoding="utf-8")
            content = yaml.safe_load(text)
        except (OSError, ValueError, RecursionError, yaml.YAMLError):  # ValueError: a NUL in its name, no UTF-8
            continue
        if isinstance(content, dict) and isinstance(content.get("evaluate"), dict) and content["evaluate"].get("protocol") == protocol:
            return text
    return None
