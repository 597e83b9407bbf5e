"""The leaderboard as a self-contained HTML page that makes no requests.

The page is a template into which its style and script are inserted (`page/`). Its content is one JSON block; the script writes it into the
document as text, never as markup. The content-security policy allows only this style and script, by their hashes, and images from `data:`
URLs; the browser blocks everything else, including the network.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fashiongen.benchmark.boards import Board, Cell, Column, Leaderboard, Node, Row, Run, about, differs_from_best, entry_of
from fashiongen.benchmark.formats import gibibytes, link, number, seconds
from fashiongen.benchmark.gallery import GALLERY_BYTES, ByteBudget, gallery
from fashiongen.benchmark.published import Published

PARTS = Path(__file__).parent / "page"


def page(board: Leaderboard, place: Path) -> str:
    """Return the page as HTML; its links to records and logs are relative to the folder of `place`."""
    style, script, template = ((PARTS / name).read_text(encoding="utf-8") for name in ("style.css", "page.js", "page.html"))
    policy = (
        f"default-src 'none'; style-src '{_csp_hash(style)}'; script-src '{_csp_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "POLICY": html.escape(policy, quote=True),
        "TITLE": html.escape(f"Leaderboard: {board.name}"),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": as_json_block(_content(board, place)),
    }
    # Each placeholder is filled once, in order, so inserted text cannot contain another placeholder.
    out, rest = [], template
    for name in ("POLICY", "TITLE", "STYLE", "DATA", "SCRIPT"):
        before, found, rest = rest.partition(f"{{{{{name}}}}}")
        assert found, f"page.html has no {name}"
        out += [before, parts[name]]
    return "".join([*out, rest])


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def as_json_block(content: object) -> str:
    """Return JSON that is safe inside a script element: it cannot end the element or start a comment."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # A lone surrogate becomes a question mark: JSON may contain it, UTF-8 cannot.
    return text.encode("utf-8", "replace").decode()


def _content(board: Leaderboard, place: Path) -> dict[str, Any]:
    budget = ByteBudget(GALLERY_BYTES)
    return {
        "name": board.name,
        "suite_sha256": board.suite_sha256,
        "boards": [_board(one, place, budget) for one in board.boards],
        "nodes": [_node(node, place) for node in board.nodes],
    }


def _board(board: Board, place: Path, budget: ByteBudget) -> dict[str, Any]:
    return {
        "label": board.label,
        "task": board.task,
        "dataset": board.dataset,
        "split": board.split,
        "protocol": board.protocol,
        "protocol_text": board.protocol_text,
        "conditions": list(board.conditions.items()),
        "columns": [{"key": column.key, "higher": column.higher_is_better} for column in board.columns],
        "rows": [_row(row, board.columns, place) for row in board.rows],
        "notes": board.notes,
        "statistics": board.statistics() if board.rows else [],
        "absent": [_node(node, place) for node in board.absent],
        "published": [_published(block, board) for block in board.published],
        "gallery": gallery(board.rows, budget),
    }


def _row(row: Row, columns: Sequence[Column], place: Path) -> dict[str, Any]:
    time, memory = row.mean("seconds_per_sample"), row.mean("peak_memory_bytes")
    parameters = row.parameters
    parents = "" if row.parents_fit_seconds is None else f" after {seconds(row.parents_fit_seconds)}"
    return {
        "name": row.name,
        "method": row.runs[0].record.method,
        "notes": row.notes,
        "about": about(row.runs),
        "cells": {column.key: _cell(row.cells[column.key], column) for column in columns if column.key in row.cells},
        "costs": {
            "seeds": {"value": len(row.runs), "text": str(len(row.runs))},
            "time": {"value": time, "text": seconds(time)},
            "memory": {"value": memory, "text": gibibytes(memory)},
            "training": {"value": row.fit_seconds, "text": seconds(row.fit_seconds) + parents},
            "parameters": {"value": parameters, "text": "-" if parameters is None else f"{parameters:,}"},
        },
        "runs": [_run(run, columns, place) for run in row.runs],
        "fits": [_run(run, (), place) for run in (*row.fits, *row.parent_fits)],
    }


def _cell(cell: Cell, column: Column) -> dict[str, Any]:
    def shown(value: float) -> str:
        return number(value, column.decimals)

    difference = cell.difference
    return {
        "value": cell.value,
        "text": number(cell.value, column.decimals),
        "interval": [shown(end) for end in cell.interval] if cell.interval else None,
        "over": cell.over,
        "rank": cell.rank,
        "apart": differs_from_best(cell),
        "difference": {
            "mean": f"{difference.mean:+.{column.decimals}f}",
            "interval": [f"{end:+.{column.decimals}f}" for end in (difference.low, difference.high)],
            "p": _p(difference.p),
            "adjusted": _p(cell.adjusted if cell.adjusted is not None else 1.0),
            "family": cell.family,
            "samples": difference.samples,
            "clusters": difference.clusters,
            "seeds": list(difference.seeds),
        }
        if difference
        else None,
        "untested": cell.untested,
        "note": cell.note,
    }


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"


def _run(run: Run, columns: Sequence[Column], place: Path) -> dict[str, Any]:
    record = run.record
    values = {}
    for column in columns:
        if (entry := entry_of(run, column)) is not None:
            values[column.key] = number(entry["value"], column.decimals)
    facts = {
        "recipe": record.recipe,
        "overlays": " ".join(record.overlays),
        "device": record.device,
        "samples": str(record.n_samples) if record.n_samples else "",
        "time per sample": seconds(record.seconds_per_sample) if record.seconds_per_sample is not None else "",
        "peak memory": gibibytes(record.peak_memory_bytes) if record.peak_memory_bytes is not None else "",
        "checkpoint": (record.checkpoint or {}).get("path", ""),
        "its weights": (record.checkpoint or {}).get("weights_sha256", (record.checkpoint or {}).get("sha256", ""))[:16],
        "config": (record.config_sha256 or "")[:16],
        "code": (record.source_sha256 or "")[:16],
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "started": record.started,
        "extractors": "; ".join(
            f"{name}: {found.get('weights', '')} {found.get('sha256', '')[:16]}" for name, found in record.extractors.items()
        ),
    }
    return {
        "node": run.folder.name,
        "kind": record.kind,
        "seed": record.seed,
        "values": values,
        "command": record.command,
        "facts": [[name, told] for name, told in facts.items() if told],
        "links": _links(run, place),
    }


def _links(run: Run, place: Path) -> list[list[str]]:
    files = {
        "record": run.file("record.json"),
        "log": run.log,
        "values per sample": run.file(run.record.per_sample),
        "images": run.file(run.record.images),
    }
    return [[name, link(path, place)] for name, path in files.items() if path]


def _node(node: Node, place: Path) -> dict[str, Any]:
    record = node.run.record if node.run else None
    return {
        "node": node.id,
        "kind": node.kind,
        "status": node.status,
        "reason": node.reason or "",
        "exit_status": record.exit_status if record else None,
        "seconds": {"value": record.seconds, "text": seconds(record.seconds)} if record else {"value": None, "text": "-"},
        "command": record.command if record else None,
        "links": _links(node.run, place) if node.run else [],
    }


def _published(block: Published, board: Board) -> dict[str, Any]:
    return {
        "paper": block.paper,
        "title": block.title,
        "table": block.table,
        "caption": block.caption,
        "dataset": block.dataset,
        "protocol": block.protocol,
        "protocol_note": block.protocol_note,
        "unlike": board.unlike(block),
        "metrics": [str(metric["printed"]) for metric in block.metrics.values()],
        "rows": [
            {
                "row": row.row,
                "method": row.method,
                "variant": row.variant,
                "origin": row.origin,
                "values": list(row.values.values()),
                "notes": row.notes,
            }
            for row in block.rows
        ],
        "notes": block.notes,
    }
