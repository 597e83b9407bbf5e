"""Per-sample values of several records: intervals of rows, and paired comparisons of each row with the best of its column."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fashiongen.benchmark.boards import Cell, Column, Row, Run, entry_of
from fashiongen.intervals import Interval, holm, interval

UNTESTED_SET = "untested: a metric of the whole set has no values per sample"
UNTESTED_MISSING = "untested: no values per sample"
UNTESTED_OTHER = "untested: not the same samples as the best"
UNTESTED_SEEDS = "untested: its seeds have different samples"
UNTESTED_FEW = "untested: fewer than two clusters have a value"


@dataclass(frozen=True)
class Samples:
    """Values per sample: the ids in order, an array per metric, NaN where there is no value, and the clusters if the file names them."""

    ids: tuple[str, ...]
    values: dict[str, NDArray[np.float64]]
    clusters: tuple[str, ...] | None = None


@dataclass(frozen=True)
class RowSamples:
    """A metric's values for all seeds of a row, (S, N), with the samples' ids, and clusters if they are known."""

    ids: tuple[str, ...]
    values: NDArray[np.float64]
    clusters: tuple[str, ...] | None


def per_sample(run: Run) -> Samples | None:
    """Read the per-sample values of a record; None if there are none or they cannot be read."""
    path = run.file(run.record.per_sample)
    if path is None:
        return None
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        by_id = {line["id"]: line for line in lines if not run.group or line.get("group") == run.group}
        ids = tuple(sorted(by_id))
        names = dict.fromkeys(name for line in lines for name in line if name not in ("id", "cluster", "group"))
        values = {
            name: np.array([math.nan if (value := by_id[id_].get(name)) is None else float(value) for id_ in ids], dtype=np.float64)
            for name in names
        }
        named = all("cluster" in line for line in lines)
        clusters = tuple(str(by_id[id_]["cluster"]) for id_ in ids) if named else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return Samples(ids, values, clusters)


def _row_samples(row: Row, column: Column, samples: dict[int, Samples | None]) -> RowSamples | str:
    """Return the values of a row's seeds, or why there are none."""
    parts: list[Samples] = []
    for run in row.runs:
        found, entry = samples[id(run)], entry_of(run, column)
        if entry is None or found is None:
            return UNTESTED_MISSING
        if column.name not in found.values:
            return UNTESTED_SET
        parts.append(found)
    if len({part.ids for part in parts}) > 1:
        return UNTESTED_SEEDS
    clusters = next((part.clusters for part in parts if part.clusters), None)
    return RowSamples(parts[0].ids, np.stack([part.values[column.name] for part in parts]), clusters)


def over_samples(column: Column, row: Row, samples: dict[int, Samples | None]) -> tuple[Interval, str] | None:
    """Return the interval of a row over its seeds and clusters, and what it is over; None without values per sample."""
    found = _row_samples(row, column, samples)
    if isinstance(found, str):
        return None
    of_row = interval(found.values, found.clusters or found.ids)
    if of_row is None:
        return None
    seeds = f"{of_row.seeds[0]} seeds and " if of_row.seeds[0] > 1 else ""
    return of_row, f"{seeds}{of_row.clusters} {'clusters' if found.clusters else 'samples'}"


def compare(columns: Sequence[Column], rows: Sequence[Row], samples: dict[int, Samples | None]) -> None:
    """Test each cell against the best of its column over the same samples, and adjust the p-values of a column by Holm."""
    for column in columns:
        with_cell = [row for row in rows if column.key in row.cells and row.cells[column.key].value is not None]
        best = next((row for row in with_cell if row.cells[column.key].rank == "best"), None)
        if best is None:
            continue
        target = _row_samples(best, column, samples)
        tested: list[tuple[Cell, float]] = []
        for row in with_cell:
            if row is best:
                continue
            cell = row.cells[column.key]
            found = _difference(_row_samples(row, column, samples), target)
            if isinstance(found, str):
                cell.untested = found
            else:
                cell.difference = found
                tested.append((cell, found.p))
        for (cell, _), adjusted in zip(tested, holm([p for _, p in tested]), strict=True):
            cell.adjusted, cell.family = adjusted, len(tested)


def _difference(mine: RowSamples | str, target: RowSamples | str) -> Interval | str:
    """Return the mean difference of a row to the best, or why it is untested."""
    if isinstance(mine, str):
        return mine
    if isinstance(target, str):
        return f"{target} of the best"
    if mine.ids != target.ids:
        return UNTESTED_OTHER
    return interval(mine.values, mine.clusters or target.clusters or mine.ids, target.values) or UNTESTED_FEW
