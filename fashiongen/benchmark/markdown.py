"""The leaderboard as Markdown."""

from __future__ import annotations

import re
from pathlib import Path

from fashiongen.benchmark.boards import Board, Cell, Column, Leaderboard, about, differs_from_best
from fashiongen.benchmark.formats import ARROWS, gibibytes, link, number, seconds
from fashiongen.benchmark.published import Published


def _md(text: str) -> str:
    """Escape text for a cell of a Markdown table, on one line."""
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
            link_to_log = f"[log]({link(log, page)})" if log else ""
            lines.append(f"| {_md(node.id)} | {_md(node.status)} | {_md(node.reason or '')} | {link_to_log} |")
        lines.append("")
    return "\n".join(lines)


def _markdown_board(board: Board, page: Path | None) -> list[str]:
    conditions = ", ".join(f"{name.replace('_', ' ')} {_md(value)}" for name, value in board.conditions.items())
    lines = [f"## {_md(board.label)}: protocol {_md(board.protocol)}", ""]
    lines += [f"Split {_md(board.split)}; {conditions}.", ""] if board.split else []
    lines += _markdown_protocol(board.protocol_text)
    lines += _markdown_table(board, page) if board.rows else []
    lines += [f"{_md(note)}\n" for note in board.notes]
    lines += [f"† {_md(row.name)}: {_md('; '.join(row.notes))}\n" for row in board.rows if row.notes]
    for row in board.rows:
        lines += [f"† {_md(row.name)}, {_md(key)}: {_md(cell.note)}\n" for key, cell in row.cells.items() if cell.note]
    lines += [f"Not here: {_md(node.id)}, {_md(node.status)}: {_md(node.reason or '')}\n" for node in board.absent]
    if board.published:
        lines += ["<details><summary>Published numbers: copied from the papers, not measured here</summary>", ""]
        for block in board.published:
            lines += _markdown_published(block, board)
        lines += ["</details>", ""]
    return lines


def _markdown_protocol(text: str | None) -> list[str]:
    """Return the protocol's file as a code block, with a fence that is longer than any in the file."""
    if text is None:
        return ["Only the protocol's name is known: its file was not found in recipes/tasks.", ""]
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return ["<details><summary>The protocol in full</summary>", "", f"{fence}yaml", text.rstrip("\n"), fence, "", "</details>", ""]


def _markdown_table(board: Board, page: Path | None) -> list[str]:
    columns, lines = board.columns, []
    heads = [f"{_md(column.key)} {ARROWS[column.higher_is_better]}".rstrip() for column in columns]
    lines.append("| method | seeds | " + " | ".join([*heads, "time per sample", "peak memory"]) + " |")
    lines.append("| --- | ---: |" + " ---: |" * (len(heads) + 2))
    for row in board.rows:
        one_seed = f" ({about(row.runs)})" if len(row.runs) == 1 else ""
        records = " ".join(f"[{_md(str(run.record.seed))}]({link(run.folder / 'record.json', page)})" for run in row.runs)
        cells = [_markdown_cell(row.cells.get(column.key), column) for column in columns]
        cells += [seconds(row.mean("seconds_per_sample")), gibibytes(row.mean("peak_memory_bytes"))]
        lines.append(f"| {_md(row.name)}{' †' if row.notes else ''} | {records}{one_seed} | " + " | ".join(cells) + " |")
    return [
        *lines,
        "",
        "**Best**, *second best*. In brackets: the interval. ?: not compared with the best, for example a metric of a whole set such as "
        "FID. Memory on a CPU is that of the whole process; compare times on the same device only.",
        "",
        *(f"- {_md(sentence)}" for sentence in board.statistics()),
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
    return text + (" ≈" if differs_from_best(cell) is False else " ?" if cell.untested else "") + noted


def _markdown_published(block: Published, board: Board) -> list[str]:
    unlike = board.unlike(block)
    comparison = f"not comparable: {', '.join(unlike)}" if unlike else "the same protocol"
    heads = [_md(str(metric["printed"])) for metric in block.metrics.values()]
    lines = [
        f"{_md(block.title)}, Table {_md(block.table)} ({_md(block.dataset)}; protocol {_md(block.protocol)}: {_md(comparison)})",
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
