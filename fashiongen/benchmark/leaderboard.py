"""The leaderboard as Markdown and CSV, and the command that writes it: a pure function of a folder of records and the published numbers."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fashiongen.benchmark.arrange import read
from fashiongen.benchmark.boards import Board, Cell, Column, Leaderboard, Node, apart, overlays
from fashiongen.benchmark.published import Published, default_folder, read_published
from fashiongen.errors import UserError
from fashiongen.records import write_atomically

ARROWS = {True: "↑", False: "↓", None: ""}


def number(value: float | None, decimals: int) -> str:
    """Return a number with so many decimals, a dash for none."""
    return "-" if value is None else f"{value:.{decimals}f}"


def seconds(value: float | None) -> str:
    """Return a time in the unit that fits."""
    if value is None:
        return "-"
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min")):
        if value < limit:
            return f"{value * factor:.3g} {unit}"
    return f"{value / 3600:.3g} h"


def gibibytes(value: float | None) -> str:
    """Return bytes as GiB."""
    return "-" if value is None else f"{value / 2**30:.2f} GiB"


def link(path: Path, page: Path | None) -> str:
    """Return the address of a file as seen from the folder of a page, or from the current one, quoted."""
    start = (page.absolute().parent if page else Path.cwd()).resolve()
    return quote(os.fsencode(os.path.relpath(path.resolve(), start)))


def _md(text: str) -> str:
    """Return text that Markdown shows as it is, on one line, in a cell of a table."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in "\\`*_{}[]()#+!|~$" else character for character in plain)


def markdown(board: Leaderboard, page: Path | None = None) -> str:
    """Return all boards as Markdown, with links relative to the folder of `page`."""
    lines = [f"# Leaderboard: {_md(board.name)}", ""]
    for one in board.boards:
        lines += _markdown_board(one, page)
    others = [node for node in board.nodes if node.status != "ok"]
    if others:
        lines += ["## Nodes without a result", "", "| node | status | reason | log |", "| --- | --- | --- | --- |"]
        for node in others:
            log = node.run.log if node.run else None
            told = f"[log]({link(log, page)})" if log else ""
            lines.append(f"| {_md(node.id)} | {_md(node.status)} | {_md(node.reason or '')} | {told} |")
        lines.append("")
    return "\n".join(lines)


def _markdown_board(board: Board, page: Path | None) -> list[str]:
    told = ", ".join(f"{name.replace('_', ' ')} {_md(value)}" for name, value in board.conditions.items())
    lines = [f"## {_md(board.label)}: protocol {_md(board.protocol)}", ""]
    lines += [f"Split {_md(board.split)}; {told}.", ""] if board.split else []
    lines += _markdown_protocol(board.protocol_text)
    lines += _markdown_table(board, page) if board.rows else []
    lines += [f"{_md(note)}\n" for note in board.notes]
    lines += [f"† {_md(row.name)}: {_md('; '.join(row.notes))}\n" for row in board.rows if row.notes]
    for row in board.rows:
        lines += [f"† {_md(row.name)}, {_md(key)}: {_md(cell.note)}\n" for key, cell in row.cells.items() if cell.note]
    lines += [f"Not here: {_md(node.id)}, {_md(node.status)}: {_md(node.reason or '')}\n" for node in board.absent]
    if board.published:
        lines += ["<details><summary>Published numbers: nobody here measured them</summary>", ""]
        for block in board.published:
            lines += _markdown_published(block, board)
        lines += ["</details>", ""]
    return lines


def _markdown_protocol(text: str | None) -> list[str]:
    """Return the protocol's file as code that nothing in it can end."""
    if text is None:
        return ["Of the protocol only the name is known: its file in recipes/tasks was not at hand.", ""]
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return ["<details><summary>The protocol in full</summary>", "", f"{fence}yaml", text.rstrip("\n"), fence, "", "</details>", ""]


def _markdown_table(board: Board, page: Path | None) -> list[str]:
    columns, lines = board.columns, []
    heads = [f"{_md(column.key)} {ARROWS[column.higher_is_better]}".rstrip() for column in columns]
    lines.append("| method | seeds | " + " | ".join([*heads, "time a sample", "peak memory"]) + " |")
    lines.append("| --- | ---: |" + " ---: |" * (len(heads) + 2))
    for row in board.rows:
        records = " ".join(f"[{_md(str(run.record.seed))}]({link(run.folder / 'record.json', page)})" for run in row.runs)
        cells = [_markdown_cell(row.cells.get(column.key), column) for column in columns]
        cells += [seconds(row.mean("seconds_per_sample")), gibibytes(row.mean("peak_memory_bytes"))]
        lines.append(f"| {_md(row.name)}{' †' if row.notes else ''} | {records} | " + " | ".join(cells) + " |")
    return [
        *lines,
        "",
        "**Best**, *second best*. In brackets the 95 % interval: over seeds (Student's t) where a row has several, else over samples "
        "(bootstrap). ≈: a paired bootstrap over samples does not tell it from the best, for one comparison alone. ?: that is untested, as "
        "it is for a metric of a whole set, such as FID. Memory on a CPU is that of the whole process; times compare on one device only.",
        "",
    ]


def _markdown_cell(cell: Cell | None, column: Column) -> str:
    if cell is None:
        return "-"
    noted = " †" if cell.note else ""
    if cell.value is None:
        return f"-{noted}"
    text = number(cell.value, column.decimals)
    text = {"best": f"**{text}**", "second": f"*{text}*", None: text}[cell.rank]
    if cell.interval:
        text += f" ({number(cell.interval[0], column.decimals)} to {number(cell.interval[1], column.decimals)})"
    return text + (" ≈" if apart(cell) is False else " ?" if cell.untested else "") + noted


def _markdown_published(block: Published, board: Board) -> list[str]:
    unlike = board.unlike(block)
    told = f"not to be compared: {', '.join(unlike)}" if unlike else "the same protocol"
    heads = [_md(str(metric["printed"])) for metric in block.metrics.values()]
    lines = [
        f"{_md(block.title)}, Table {_md(block.table)} ({_md(block.dataset)}; protocol {_md(block.protocol)}: {_md(told)})",
        "",
        "| row | who ran it | " + " | ".join(heads) + " |",
        "| --- | --- |" + " ---: |" * len(heads),
    ]
    notes = list(block.notes)
    for row in block.rows:
        notes += [f"{row.row}: {note}" for note in row.notes]
        values = [value or "-" for value in row.values.values()]
        lines.append("| " + " | ".join(_md(text) for text in (row.row, row.origin, *values)) + " |")
    return [*lines, "", *(f"- {_md(note)}" for note in notes), ""]


CSV_COLUMNS = (
    "task dataset split protocol board row method recipe overlays seeds metric higher_is_better value low high interval_over rank "
    "difference_to_best difference_low difference_high p untested note n_samples seconds_per_sample peak_memory_bytes fit_seconds "
    "parents_fit_seconds parameters status reason nodes"
).split()


def csv_text(board: Leaderboard) -> str:
    """Return one line a cell, and one a node without a result. Published numbers are not among them."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _no_formula(value) for name, value in line.items()} for line in _csv_lines(board))
    return out.getvalue()


def _no_formula(value: Any) -> Any:  # noqa: ANN401  text or a number
    """Return text that a spreadsheet takes for text, whatever it begins with."""
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


def run(
    folder: Path,
    *,
    html: Path | None = None,
    markdown_file: Path | None = None,
    csv_file: Path | None = None,
    published: Path | None = None,
) -> None:
    """Write what is asked for, or print the Markdown where nothing is.

    Raises:
        UserError: if the folder holds no records, the published numbers cannot be read, or a file cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; `fashiongen bench run SUITE --out {folder}` makes it")
    place = published or default_folder()
    found = read(folder, read_published(place) if place else [])
    if html:
        from fashiongen.benchmark.webpage import page

        _write(html, page(found, html))
    if markdown_file:
        _write(markdown_file, markdown(found, markdown_file))
    if csv_file:
        _write(csv_file, csv_text(found))
    if not (html or markdown_file or csv_file):
        print(_encodable(markdown(found)))


def _encodable(text: str) -> str:
    """Return text in which a lone surrogate, which JSON and names of files may hold and UTF-8 cannot, is a question mark."""
    return text.encode("utf-8", "replace").decode()


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, _encodable(text))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another file") from error
    print(f"wrote {path}")
