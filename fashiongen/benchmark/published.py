"""The papers' numbers (`benchmarks/published`, its README states the schema), shown as blocks next to ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fashiongen import shipped
from fashiongen.errors import UserError

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One printed row: its label, its method, who ran it, and its values exactly as printed (None for a dash)."""

    row: str
    method: str
    variant: str | None
    origin: str
    values: dict[str, str | None]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Published:
    """The columns of one printed table that share a dataset and a protocol.

    Attributes:
        paper: short name of the paper.
        title: full title of the paper.
        table: number of the table.
        caption: first sentence of the caption.
        dataset: name as in our records, possibly with a part after a dash.
        task: task of the protocol.
        protocol: name of the protocol; `Board.unlike` decides whether it is comparable with ours.
        split: split of the evaluated samples; None if the paper does not state it, also for the next two.
        samples: number of evaluated samples.
        size: size of the evaluated images, height x width.
        protocol_note: what the paper does not say about the protocol.
        metrics: for each column its printed name, and whether higher is better.
        rows: rows in printed order.
        notes: notes on the whole table: contradictions and doubts.
    """

    paper: str
    title: str
    table: str
    caption: str
    dataset: str
    task: str
    protocol: str
    split: str | None
    samples: str | None
    size: str | None
    protocol_note: str
    metrics: dict[str, dict[str, Any]]
    rows: list[PublishedRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def default_folder() -> Path | None:
    """Return the package's folder of published numbers; None if it is missing."""
    folder = shipped.published_folder()
    return folder if folder.is_dir() else None


def read_published(folder: Path) -> list[Published]:
    """Read every result table of every paper.

    Raises:
        UserError: if the folder has no such file, or a file does not follow the schema.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise UserError(f"--published {folder}: no *.yaml in this folder; a checkout has them in benchmarks/published")
    return [block for file in files for block in _blocks(file)]


def _blocks(file: Path) -> list[Published]:
    try:
        paper = yaml.safe_load(file.read_text(encoding="utf-8"))
        if paper["schema"] != SCHEMA:
            raise UserError(f"{file}: has schema {paper['schema']}, but this version of fashiongen reads {SCHEMA}")
        return [_block(paper, table, key) for table in paper["tables"] if table["kind"] != "data" for key in table["groups"]]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = " ".join(str(error).split())
        raise UserError(
            f"{file}: not a valid file of published numbers ({type(error).__name__}: {message}); see the schema in its README"
        ) from error


def _block(paper: dict[str, Any], table: dict[str, Any], key: str) -> Published:
    group = table["groups"][key]
    protocol = paper["protocols"][group["protocol"]]
    rows = []
    for row in table["rows"]:
        values = dict(row["values"][key])
        if not all(value is None or isinstance(value, str) for value in values.values()):
            raise TypeError(f"{row['row']}: values must be strings, in quotes, exactly as printed")
        own = [row["note"]] if row.get("note") else []
        own += [row["missing"][key]] if key in row.get("missing", {}) else []
        own += [
            _note_line(note)
            for note in paper["notes"]
            if any(_names(place, table, key) and place.get("row") == row["row"] for place in note["at"])
        ]
        rows.append(
            PublishedRow(
                row=row["row"],
                method=row["method"],
                variant=row.get("variant"),
                origin=row["origin"],
                values=values,
                notes=own,
            )
        )
    of_table = [
        _note_line(note) for note in paper["notes"] if any(_names(place, table, key) and "row" not in place for place in note["at"])
    ]
    return Published(
        paper=paper["paper"],
        title=paper["title"],
        table=table["table"],
        caption=" ".join([*group["printed"], "-", table["caption"]]) if group["printed"] else table["caption"],
        dataset=group["dataset"],
        task=protocol["task"],
        protocol=group["protocol"],
        **{name: None if protocol[name] is None else str(protocol[name]) for name in ("split", "samples", "size")},
        protocol_note=protocol["note"],
        metrics={name: dict(paper["metrics"][name]) for name in group["metrics"]},
        rows=rows,
        notes=of_table,
    )


def _names(place: dict[str, Any], table: dict[str, Any], key: str) -> bool:
    """Return whether a note refers to these columns of this table."""
    return bool(place.get("table") == table["table"] and place.get("group", key) == key)


def _note_line(note: dict[str, Any]) -> str:
    return f"{note['kind']}: {' '.join(note['note'].split())}"
