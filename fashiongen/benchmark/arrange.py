"""Arranges the records of a benchmark into tables and marks the best. Does not import torch, to start fast."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from fashiongen import shipped
from fashiongen.benchmark.boards import Board, Cell, Column, Leaderboard, Node, Row, Run, about, column_identity, entry_of, overlays
from fashiongen.benchmark.paired import Samples, compare, over_samples, per_sample
from fashiongen.benchmark.published import Published
from fashiongen.errors import UserError
from fashiongen.intervals import ROUNDING, over_seeds
from fashiongen.own_code import SOURCE
from fashiongen.records import JUDGED_FOLDER, Record

WAYS = {True: "higher is better", False: "lower is better", None: "neither is better"}


def read(folder: Path, published: Sequence[Published] = ()) -> Leaderboard:
    """Read and arrange the records of `folder/nodes`.

    Raises:
        UserError: if there is no record.
    """
    suite = _suite(folder / "suite.json")
    nodes = _nodes(folder, suite)
    if not nodes:
        raise UserError(
            f"{folder}: no records (nodes/*/record.json) in this folder; `fashiongen bench run SUITE --out {folder}` writes them"
        )
    tests = [node for node in nodes if node.kind == "test"]
    fits = _Fits([node.run for node in nodes if node.kind == "fit" and node.run is not None and node.status == "ok"])
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for node in tests:
        if node.status == "ok" and node.run is not None:
            for run in (node.run, *_of_groups(node.run)):
                groups[_board_key(run)].append(run)
    boards = []
    for key in sorted(groups):
        alike = sorted(other for other in groups if other[:5] + other[6:] == key[:5] + key[6:])
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
        raise UserError(f"{path}: damaged ({error}); run `fashiongen bench run` to write it again") from error
    return content if isinstance(content, dict) else {}


def _nodes(folder: Path, suite: dict[str, Any]) -> list[Node]:
    """Return all nodes: those with a record, those with an unreadable record, and planned ones without a record."""
    listed = suite.get("nodes")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    planned = {entry["id"]: entry for entry in entries if isinstance(entry.get("id"), str)}
    # Without keys in the plan, stale records cannot be detected.
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
        judged_by_hand = bool(record.source) and record.key is None  # by `fashiongen judge`, which no suite plans
        if keyed and entry is None and not judged_by_hand:
            status, reason = "unplanned", f"no longer in the suite; its record says {status}" + (f": {reason}" if reason else "")
        stale = entry is not None and entry.get("key") not in (None, record.key)
        run, test = Run(record=record, folder=path.parent, stale=stale), (record.task, record.dataset, record.protocol)
        nodes.append(Node(id=name, kind=record.kind, status=status, reason=reason, run=run, test=test))
    for id_, entry in planned.items():
        skipped = entry.get("skipped") or entry.get("reason")
        status, reason = ("skipped", str(skipped)) if skipped else ("waiting", "planned, and not run yet")
        nodes.append(_unread(id_, entry, status, reason))
    return nodes


def _unread(id_: str, entry: dict[str, Any], status: str, reason: str) -> Node:
    """Return a node without a record, from the plan's description."""
    task, dataset, protocol = (str(entry.get(name) or "") for name in ("task", "dataset", "protocol"))
    return Node(id=id_, kind=str(entry.get("kind", "")), status=status, reason=reason, run=None, test=(task, dataset, protocol))


def _of_groups(run: Run) -> Iterator[Run]:
    """Yield a run for each group of samples that the record has numbers of; its images are those of all samples, and left to them."""
    record = run.record
    for group, found in record.groups.items():
        conditions = {**_conditions(record), record.by or "group": group, "samples": str(found["n_samples"])}
        part = replace(
            record, metrics=found["metrics"], n_samples=found["n_samples"], conditions=conditions, images=None, gallery={}, groups={}
        )
        yield replace(run, record=part, group=group)


def _board_key(run: Run) -> tuple[str, ...]:
    """Return what the rows of one board share; images of unknown origin are on boards of their own."""
    record = run.record
    origin = record.source["kind"] if record.source.get("kind") == JUDGED_FOLDER else ""
    conditions = json.dumps(_conditions(record), sort_keys=True)
    return (record.task, record.dataset, record.split, record.protocol, run.group, conditions, origin)


def _conditions(record: Record) -> dict[str, str]:
    """Return the conditions that comparable numbers must share, besides the protocol; empty values are omitted.

    The record holds them, as defined by the task. For older records without them, they are built from data, size and reference images.
    """
    reference = record.reference or {}
    stated = record.conditions or {
        "world": record.data.get("world", ""),
        "data": record.data.get("fingerprint", "")[:12],
        "masks": record.data.get("masks", ""),
        "size": record.data.get("size", ""),
        "samples": str(record.n_samples),
        "reference": " ".join(reference.get(key, "") for key in ("dataset", "split", "field", "size")).strip(),
        "reference_data": reference.get("fingerprint", "")[:12],
    }
    found = {**stated, "samples": stated.get("samples") or str(record.n_samples), "protocol_settings": (record.protocol_sha256 or "")[:12]}
    return {name: value for name, value in found.items() if value}


def _code(record: Record) -> tuple[str, ...]:
    """Return the hashes of the code behind a record: this package's, and the user's own."""
    own = (f"{name} {version}" for name, version in sorted(record.versions.items()) if version.startswith(SOURCE))
    return record.source_sha256 or "", *own


def _weights(record: Record) -> tuple[str, ...]:
    """Return the hashes of the frozen parts and the starting weights from outside, which all seeds of a row share."""
    outside = [entry for entry in record.weights if entry["source"] not in record.parents.values()]
    return tuple(f"{entry['source']} {name} {value}" for entry in outside for name, value in sorted(entry["files"].items()))


def _row_key(record: Record) -> tuple[str, ...]:
    return (record.recipe or record.method, *overlays(record))


def _row_name(key: Sequence[str], *, whole: bool = False) -> str:
    return " + ".join(part if whole else PurePosixPath(part).name.removesuffix(".yaml") or part for part in key)


class _Fits:
    """The trainings of a folder, found by their checkpoints."""

    def __init__(self, fits: list[Run]) -> None:
        self._by_hash: dict[str, Run] = {}
        self._by_path: dict[str, Run] = {}
        self._by_name: dict[tuple[tuple[str, ...], int | None], Run] = {}
        for fit in fits:
            left = [fit.record.checkpoint or {}, *fit.record.checkpoints.values()]
            self._by_hash |= {file["sha256"]: fit for file in left if "sha256" in file}
            self._by_path |= {file["path"]: fit for file in left if "path" in file}
            if "sha256" not in left[0]:
                self._by_name[_row_key(fit.record), fit.record.seed] = fit

    def of(self, run: Run) -> Run | None:
        """Return the training whose checkpoint was tested; one without a hash is found by its recipe, overlays and seed."""
        tested = (run.record.checkpoint or {}).get("sha256", "")
        return self._by_hash.get(tested) or self._by_name.get((_row_key(run.record), run.record.seed))

    def parents(self, fit: Run) -> list[Run]:
        """Return the trainings that a training starts from, recursively."""
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
        if len({_code(run.record) for run in mine}) > 1:
            row.notes.append("its seeds were run by different versions of the code")
        if len({_weights(run.record) for run in mine}) > 1:
            row.notes.append("its seeds read different frozen parts or starting weights")
        if seeds := ", ".join(str(run.record.seed) for run in mine if run.stale):
            row.notes.append(f"run with other settings, data or code than the suite plans: seed {seeds}")
        row.notes += list(dict.fromkeys(run.record.reason for run in mine if run.record.reason))
        rows.append(row)
    rows.sort(key=lambda row: row.name)
    versions = {run.record.evaluation_sha256 or run.record.source_sha256 for row in rows for run in row.runs}
    columns = _columns(runs)
    samples = {id(run): per_sample(run) for run in runs}
    for column in columns:
        _fill(column, rows, samples)
    compare(columns, rows, samples)
    conditions = _conditions(first)
    world, counted = f", {conditions['world']}" if "world" in conditions else "", f" ({number})" if number else ""
    origin = f", {JUDGED_FOLDER}s" if first.source.get("kind") == JUDGED_FOLDER else ""
    group = f", {first.by or 'group'} {runs[0].group}" if runs[0].group else ""
    return Board(
        task=first.task,
        dataset=first.dataset,
        split=first.split,
        protocol=first.protocol,
        conditions=conditions,
        label=f"{first.task} on {first.dataset}{world}{group}{origin}{counted}",
        protocol_text=protocol_text(first.protocol, [run.record.recipe for run in runs]),
        columns=columns,
        rows=rows,
        # Told once, on the board of all samples.
        absent=[] if group else _absent(tests, (first.task, first.dataset, first.protocol)),
        published=_beside(published, first.task, first.dataset),
        notes=["Its rows were run by different versions of the code."] if len(versions) > 1 else [],
    )


def _empty_board(test: tuple[str, str, str], tests: list[Node], published: Sequence[Published]) -> Board:
    """Return the board of a test that has no result."""
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
        notes=["No test has a result."],
    )


def _absent(tests: list[Node], test: tuple[str, str, str]) -> list[Node]:
    return [node for node in tests if node.status not in ("ok", "unplanned") and node.test == test]


def _beside(published: Sequence[Published], task: str, dataset: str) -> list[Published]:
    """Return the published numbers for a task and dataset; a part after a dash in the dataset's name is ignored."""
    return [block for block in published if block.task == task and block.dataset.partition("-")[0] == dataset.partition("-")[0]]


def _one_a_seed(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Return the last started run of each seed, and notes on the omitted ones: repeats of a seed are not independent."""
    by_seed: dict[int | None, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.record.started or "", run.folder.name)):
        by_seed[run.record.seed].append(run)
    notes = [f"{len(found)} records of seed {seed}: the last one counts" for seed, found in by_seed.items() if len(found) > 1]
    order = sorted(by_seed, key=lambda seed: -1 if seed is None else seed)
    return [by_seed[seed][-1] for seed in order], notes


def _columns(runs: list[Run]) -> list[Column]:
    """Return the columns in the order of the records; different metrics with the same name get separate columns."""
    found: dict[str, dict[tuple[str, bool | None], None]] = {}
    for run in runs:
        for name in run.record.metrics:
            found.setdefault(name, {})[column_identity(run.record, name)] = None
    columns = []
    for name, kinds in found.items():
        weights, ways = {sha256 for sha256, _ in kinds}, {higher for _, higher in kinds}
        for sha256, higher in kinds:
            key = name + (f" weights {sha256[:8]}" if len(weights) > 1 else "") + (f" ({WAYS[higher]})" if len(ways) > 1 else "")
            columns.append(Column(key=key, name=name, higher_is_better=higher, weights=sha256))
    return columns


def _fill(column: Column, rows: list[Row], samples: dict[int, Samples | None]) -> None:
    """Fill in the cell of each row that has the metric, and mark the best and the second best."""
    for row in rows:
        entries = [entry for run in row.runs if (entry := entry_of(run, column)) is not None]
        if not entries:
            continue
        values = [entry["value"] for entry in entries if entry["value"] is not None]
        cell = Cell(value=None, interval=None, over="")
        if len(values) < len(entries):
            cell.note = "not a number: a prediction was not finite, or there was nothing to average"
        else:
            cell.value = math.fsum(values) / len(values)
            cell.interval, cell.over = _interval(column, row, values, samples)
        if len(entries) < len(row.runs):
            cell.note = f"{len(entries)} of {len(row.runs)} seeds have this metric"
        row.cells[column.key] = cell
    cells = [row.cells[column.key] for row in rows if column.key in row.cells]
    if column.higher_is_better is not None:
        mark(cells, higher_is_better=column.higher_is_better)
    smallest = min((abs(cell.value) for cell in cells if cell.value), default=None)
    column.decimals = 4 if smallest is None else min(max(3 - math.floor(math.log10(smallest)), 0), 6)


def _interval(
    column: Column, row: Row, values: Sequence[float], samples: dict[int, Samples | None]
) -> tuple[tuple[float, float] | None, str]:
    """Return a row's interval and what it is over: seeds and clusters, else what is known of them; none if nothing varies."""
    found = over_samples(column, row, samples)
    one_seed = f", {about(row.runs)}" if len(values) == 1 else ""
    if found is not None:
        ends: tuple[float, float] | None = (found[0].low, found[0].high)
        over = f"{found[1]}{one_seed}"
    elif len(values) > 1:
        ends, over = over_seeds(values), f"{len(values)} seeds, these samples"
    else:
        stated = next(entry["ci95"] for run in row.runs if (entry := entry_of(run, column)) is not None)
        ends = (stated[0], stated[1]) if stated is not None and len(stated) == 2 else None
        over = f"{row.runs[0].record.n_samples} samples, as the record states{one_seed}"
    if ends is None or math.isclose(*ends, rel_tol=ROUNDING):
        return None, ""
    return ends, over


def mark(cells: Sequence[Cell], *, higher_is_better: bool) -> None:
    """Mark the best and the second best of a column; equal values share a rank, and after two best there is no second."""
    ranked = [(cell.value if higher_is_better else -cell.value, cell) for cell in cells if cell.value is not None]
    ranked.sort(key=lambda pair: -pair[0])
    for value, cell in ranked:
        above = sum(other > value and not math.isclose(other, value, rel_tol=ROUNDING) for other, _ in ranked)
        cell.rank = "best" if above == 0 else "second" if above == 1 else None


def protocol_text(protocol: str, recipes: Iterable[str | None]) -> str | None:
    """Return the text of a protocol's file: from `tasks/` next to the recipes, below the current folder, or the shipped one."""
    if not protocol or PurePosixPath(protocol).name != protocol:
        return None
    beside = [folder for recipe in recipes if recipe for folder in list(Path(recipe).absolute().parents)[:2]]
    for place in dict.fromkeys([*beside, Path("recipes").absolute(), shipped.recipes_folder()]):
        file = place / "tasks" / f"{protocol}.yaml"
        try:
            text = file.read_text(encoding="utf-8")
            content = yaml.safe_load(text)
        except (OSError, ValueError, RecursionError, yaml.YAMLError):  # ValueError: a NUL in its name, or not UTF-8
            continue
        if isinstance(content, dict) and isinstance(content.get("evaluate"), dict) and content["evaluate"].get("protocol") == protocol:
            return text
    return None
