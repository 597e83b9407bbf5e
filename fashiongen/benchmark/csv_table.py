"""The leaderboard as CSV: one line per number, at full precision."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from fashiongen.benchmark.boards import Leaderboard, Node, about, overlays

CSV_COLUMNS = (
    "task dataset split protocol board row method recipe overlays seeds about metric higher_is_better value low high interval_over rank "
    "difference_to_best difference_low difference_high p p_holm comparisons clusters untested note n_samples "
    "seconds_per_sample peak_memory_bytes fit_seconds parents_fit_seconds parameters status reason nodes"
).split()


def csv_text(board: Leaderboard) -> str:
    """Return one line per cell, and one per node without a result. Published numbers are not included."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _no_formula(value) for name, value in line.items()} for line in _csv_lines(board))
    return out.getvalue()


def _no_formula(value: Any) -> Any:  # noqa: ANN401  text or a number
    """Escape text that a spreadsheet would read as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _csv_lines(board: Leaderboard) -> Iterator[dict[str, Any]]:
    for one in board.boards:
        where = {"task": one.task, "dataset": one.dataset, "split": one.split, "protocol": one.protocol, "board": one.label}
        for row in one.rows:
            record = row.runs[0].record
            head = {
                "row": row.name,
                "method": record.method,
                "recipe": record.recipe,
                "overlays": " ".join(overlays(record)),
                "seeds": " ".join(str(run.record.seed) for run in row.runs),
                "about": about(row.runs),
                "n_samples": record.n_samples,
                "seconds_per_sample": row.mean("seconds_per_sample"),
                "peak_memory_bytes": row.mean("peak_memory_bytes"),
                "fit_seconds": row.fit_seconds,
                "parents_fit_seconds": row.parents_fit_seconds,
                "parameters": row.parameters,
                "status": "ok",
                "reason": "; ".join(row.notes),
                "nodes": " ".join(run.folder.name for run in row.runs),
            }
            for column in one.columns:
                cell = row.cells.get(column.key)
                if cell is None:
                    continue
                low, high = cell.interval or (None, None)
                difference = cell.difference
                tested = (
                    {
                        "difference_to_best": difference.mean,
                        "difference_low": difference.low,
                        "difference_high": difference.high,
                        "p": difference.p,
                        "p_holm": cell.adjusted,
                        "comparisons": cell.family,
                        "clusters": difference.clusters,
                    }
                    if difference
                    else {}
                )
                yield {
                    **where,
                    **head,
                    "metric": column.key,
                    "higher_is_better": column.higher_is_better,
                    "value": cell.value,
                    "low": low,
                    "high": high,
                    "interval_over": cell.over,
                    "rank": cell.rank,
                    **tested,
                    "untested": cell.untested,
                    "note": cell.note,
                }
    for node in board.nodes:
        if node.status != "ok":
            yield {**_where(node), "status": node.status, "reason": node.reason, "nodes": node.id}


def _where(node: Node) -> dict[str, Any]:
    test = dict(zip(("task", "dataset", "protocol"), node.test, strict=True))
    if node.run is None:
        return test
    record = node.run.record
    names = ("split", "method", "recipe")
    return {**test, **{name: getattr(record, name) for name in names}, "overlays": " ".join(overlays(record)), "seeds": record.seed}
