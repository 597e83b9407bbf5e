"""The data structures of a leaderboard; `arrange` builds them from records. Does not import torch, to start fast.

A *board* is one table: one task, dataset, split and protocol, with the same conditions, such as the data files and the reference images.
Records with groups of samples, such as categories, have a board for all samples and one for each group.
A *row* is a recipe with its overlays; all its seeds share one row.
A *column* is a metric by its reported name, which includes its feature extractor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from fashiongen.benchmark.published import Published
from fashiongen.intervals import LEVEL, Interval
from fashiongen.records import MetricEntry, Record

Rank = Literal["best", "second"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A record and its folder; `stale` if the suite now plans its node with other settings, data or code.

    `group` names the group of samples that the record's numbers are of, such as a category; empty for all samples.
    """

    record: Record
    folder: Path
    stale: bool = False
    group: str = ""

    def file(self, name: str | None) -> Path | None:
        """Return the path of a file or folder that the record names, if it exists inside the record's folder."""
        if not name:
            return None
        try:
            path = (self.folder / name).resolve()
            return path if path.is_relative_to(self.folder.resolve()) and path.exists() else None
        except (OSError, ValueError, RuntimeError):  # not a valid path: too long, with a NUL, or a cycle of links
            return None

    @property
    def log(self) -> Path | None:
        """The log of the node."""
        return self.file(self.record.log) or self.file("log.txt")


@dataclass(frozen=True, kw_only=True)
class Node:
    """The outcome of one node; `run` is None without a readable record.

    `status` is that of the record, or damaged, waiting (planned, without a record), or unplanned (a record that is not in the suite).
    `test` holds the task, dataset and protocol of a test, from the record or the plan; empty if neither has them.
    """

    id: str
    kind: str
    status: str
    reason: str | None
    run: Run | None
    test: tuple[str, str, str] = ("", "", "")


@dataclass(kw_only=True)
class Cell:
    """A metric's value for a row.

    Attributes:
        value: mean over the seeds; None if a seed has no finite value.
        interval: the 95 % interval, or None.
        over: what the interval is over, such as `3 seeds and 225 clusters` or `225 clusters, this checkpoint`; empty without an interval.
        rank: whether it is the best or the second best in its column; after a tie for best there is no second.
        difference: difference to the best over the same samples, the row less the best.
        adjusted: p-value of the difference, adjusted by Holm for the comparisons of the column.
        family: number of comparisons of the column.
        untested: why there is no difference.
        note: a note to show below the table.
    """

    value: float | None
    interval: tuple[float, float] | None
    over: str
    rank: Rank | None = None
    difference: Interval | None = None
    adjusted: float | None = None
    family: int = 0
    untested: str | None = None
    note: str | None = None


@dataclass(kw_only=True)
class Column:
    """A metric. `key` is `name`, plus the extractor's weights and the direction if the records of a board differ in them.

    `decimals` is the number of decimals to show. If `higher_is_better` is None, nothing is marked as best.
    """

    key: str
    name: str
    higher_is_better: bool | None
    weights: str
    decimals: int = 4


@dataclass(kw_only=True)
class Row:
    """A recipe with its overlays on one board: its runs in the order of their seeds, their trainings, and the parents of these."""

    name: str
    runs: list[Run]
    fits: list[Run]
    parent_fits: list[Run]
    cells: dict[str, Cell] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def mean(self, field_name: Literal["seconds_per_sample", "peak_memory_bytes"]) -> float | None:
        """Return the mean of a record's field over the seeds, None if a seed lacks it."""
        values = [getattr(run.record, field_name) for run in self.runs]
        return None if None in values else math.fsum(values) / len(values)

    @property
    def fit_seconds(self) -> float | None:
        """Mean training time over the seeds, without the parents'."""
        values = [run.record.fit_seconds for run in self.fits if run.record.fit_seconds is not None]
        return math.fsum(values) / len(values) if values else None

    @property
    def parents_fit_seconds(self) -> float | None:
        """Mean total training time of the parents per seed."""
        values = [run.record.fit_seconds for run in self.parent_fits if run.record.fit_seconds is not None]
        return math.fsum(values) / len(self.fits) if values else None

    @property
    def parameters(self) -> int | None:
        """Number of parameters in total."""
        return self.runs[0].record.parameters.get("total")


@dataclass(kw_only=True)
class Board:
    """A table of comparable results. `absent` holds the nodes without a result; `notes` apply to the whole board."""

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

    def statistics(self) -> list[str]:
        """Return what a reader must know of the intervals and comparisons: what they are over, their level, how many."""
        runs = [run.record for row in self.rows for run in row.runs]
        shared = sorted({record.clusters for record in runs if record.clusters})
        compared = [(key, cell) for row in self.rows for key, cell in row.cells.items() if cell.difference]
        columns = len({key for key, _ in compared})
        level, told = f"{LEVEL * 100:g} %", []
        if any(len(row.runs) > 1 for row in self.rows):
            told.append(
                f"Intervals ({level}) of a row with several seeds are for the mean of the method, over other seeds and other samples "
                "(crossed variance components of seeds and clusters, weighted t). Those of metrics of a whole set, such as FID, are over "
                "seeds alone (Student's t), for these samples."
            )
        if any(len(row.runs) == 1 for row in self.rows):
            told.append(
                f"Intervals ({level}) of a row with one seed are over clusters of samples alone (jackknife, t). They are about this "
                "checkpoint, not about the method: another training may differ by more."
            )
        if shared:
            told.append(
                f"A cluster is all samples with the same {' or '.join(shared)}, directly or over other samples. "
                "Clusters count as independent, samples do not."
            )
        if any(record.per_sample and not record.clusters for record in runs):
            told.append(
                "Some records name no clusters. Their samples count as independent; where samples share an input, intervals are too narrow."
            )
        told.append(
            f"Comparisons with the best of a column, over the same samples: {len(compared)} in {columns} "
            f"{'columns' if columns > 1 else 'column'}. ≈: not told apart from the best at {(1 - LEVEL) * 100:.0f} %, by p-values that are "
            "adjusted (Holm) for the comparisons of the column; nothing is adjusted over columns. The best was chosen by the same values, "
            "which favours it."
            if compared
            else "No two rows were compared."
        )
        return told

    def unlike(self, block: Published) -> list[str]:
        """Return how the conditions of published numbers differ from this board's, where both are known; empty if comparable."""
        differences = ["another protocol"] if block.protocol != self.protocol else []
        differences += ["another dataset"] if block.dataset != self.dataset else []
        differences += ["the data here are the embedded world's"] if "world" in self.conditions else []
        ours = {"split": self.split, **self.conditions}
        for name, theirs in (("split", block.split), ("samples", block.samples), ("size", block.size)):
            if theirs and ours.get(name, theirs) != theirs:
                differences.append(f"{name} {theirs} (here {ours[name]})")
        return differences


@dataclass(kw_only=True)
class Leaderboard:
    """All boards and nodes of a folder."""

    folder: Path
    name: str
    suite_sha256: str | None
    boards: list[Board]
    nodes: list[Node]


def column_identity(record: Record, name: str) -> tuple[str, bool | None]:
    """Return what the entries of one column share: the weights of the metric's extractor, and whether higher is better."""
    return record.extractors.get(name, {}).get("sha256", "unknown"), record.metrics[name]["higher_is_better"]


def entry_of(run: Run, column: Column) -> MetricEntry | None:
    """Return a record's entry of a column's metric, None if it has none."""
    known = column.name in run.record.metrics and column_identity(run.record, column.name) == (column.weights, column.higher_is_better)
    return run.record.metrics[column.name] if known else None


def overlays(record: Record) -> list[str]:
    """Return a record's overlays without the files of `recipes/tasks`, which belong to the protocol and not to the method."""
    return [overlay for overlay in record.overlays if PurePosixPath(overlay).parent.name != "tasks"]


def about(runs: Sequence[Run]) -> str:
    """Return what the numbers of a row are about: `the method` for several seeds, else `this checkpoint`, or `this run` without one."""
    return "the method" if len(runs) > 1 else "this checkpoint" if runs[0].record.checkpoint else "this run"


def differs_from_best(cell: Cell) -> bool | None:
    """Return whether the difference to the best is significant after Holm's adjustment; None if not tested."""
    return None if cell.adjusted is None else cell.adjusted < 1.0 - LEVEL
