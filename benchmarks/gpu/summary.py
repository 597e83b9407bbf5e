"""The Markdown page made from the records of all checks."""

from __future__ import annotations

from pathlib import Path

from gpu.records import Facts, read


def summary(out: Path) -> str:
    """Return the Markdown page of all records in a folder."""
    found = sorted((record for path in out.glob("*.json") if (record := read(path))), key=lambda record: (record["card"], record["check"]))
    lines = ["# Checks on a GPU", "", "Written by `benchmarks/gpu_check.py` from the JSON files in this folder, one a check and card.", ""]
    if any(record["rehearsal"] for record in found):
        lines += ["**A rehearsal on a CPU, at tiny sizes: no number here says anything about a GPU.**", ""]
    cells = [
        {
            "check": record["check"],
            "card": record["card"],
            "result": record["status"] if record["reason"] is None else f"{record['status']}: {record['reason']}",
            "took, s": record.get("seconds"),
            "when": record["started"],
            "torch": record.get("versions", {}).get("torch"),
        }
        for record in found
    ]
    lines += _table(cells)
    kinds: dict[str, list[Facts]] = {}
    for record in found:
        rows = record["facts"].get("rows", [])
        several = len({other["card"] for other in found}) > 1
        kinds.setdefault(record["kind"], []).extend({**row, **({"card": record["card"]} if several else {})} for row in rows)
    for kind, rows in kinds.items():
        lines += ["", f"## {kind}", "", *_table(rows)] if rows else []
    return "\n".join(lines) + "\n"


def _table(rows: list[Facts]) -> list[str]:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    if not keys:
        return []
    return [_line(keys), _line(["---"] * len(keys)), *(_line([_cell(row.get(key)) for key in keys]) for row in rows)]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
