"""The papers' numbers (`benchmarks/published`, whose README states the schema), as blocks next to ours."""

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
    """One printed row: its label, whose method it is, who ran it, and its values, exactly as printed (None for a dash)."""

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
        title: in full.
        table: its number.
        caption: its first sentence.
        dataset: as in our records, possibly with a part after a dash.
        task: of the protocol.
        protocol: its name; see `Board.unlike` for when it may be compared with ours at all.
        split: of the judged samples, None where the paper does not say; so are the next two.
        samples: how many were judged.
        size: of the judged images, height x width.
        protocol_note: what the paper leaves open about it.
        metrics: column: the name over it, and whether higher is better.
        rows: in printed order.
        notes: of the whole table: contradictions and doubts.
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
    """Return the folder of the papers' numbers that comes with the package; None where it is missing."""
    folder = shipped.published_folder()
    return folder if folder.is_dir() else None


def read_published(folder: Path) -> list[Published]:
    """Read every result table of every paper.

    Raises:
        UserError: if the folder holds no such file, or one that does not follow the schema.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise UserError(f"--published {folder}: no *.yaml there; benchmarks/published of a checkout holds them")
    return [block for file in files for block in _blocks(file)]


def _blocks(file: Path) -> list[Published]:
    try:
        paper = yaml.safe_load(file.read_text(encoding="utf-8"))
        if paper["schema"] != SCHEMA:
            raise UserError(f"{file}: schema {paper['schema']}, and this fashiongen reads {SCHEMA}")
        return [_block(paper, table, key) for table in paper["tables"] if table["kind"] != "data" for key in table["groups"]]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = " ".join(str(error).split())
        raise UserError(
            f"{file}: no file of published numbers ({type(error).__name__}: {message}); see the schema in its README"
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
    """Tell whether a note's place is in these columns of this table."""
    return bool(place.get("table") == table["table"] and place.get("group", key) == key)


def _note_line(note: dict[str, Any]) -> str:
    return f"{note['kind']}: {' '.join(note['note'].split())}"
