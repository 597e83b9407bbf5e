"""Per-sample values of several records, and paired comparisons of each row with the best of its column."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fashiongen.benchmark.boards import Cell, Column, Row, Run, entry_of
from fashiongen.benchmark.statistics import paired_bootstrap

# Values this close, relative to the larger one, differ only by rounding.
SAME = 1e-9
UNTESTED_SET = "untested: a metric of the whole set has no values per sample"
UNTESTED_MISSING = "untested: no values per sample"
UNTESTED_OTHER = "untested: not the same samples as the best"


@dataclass(frozen=True)
class Samples:
    """Values per sample: the ids in order, and an array per metric, NaN where there is no value."""

    ids: tuple[str, ...]
    values: dict[str, NDArray[np.float64]]


def per_sample(run: Run) -> Samples | None:
    """Read the per-sample values of a record; None if there are none or they cannot be read."""
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
    """Return the sample ids and each sample's mean over the row's seeds, or why there are none."""
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


def compare(columns: list[Column], rows: list[Row], samples: dict[int, Samples | None]) -> None:
    """Test each cell against the best of its column over the same samples; cells with the same ids share the bootstrap draws."""
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
