"""The records of `gpu_check.py`: one JSON a check and card."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Facts = dict[str, Any]


def file_of(out: Path, check: str, card: str) -> Path:
    """Return the place of a check's record on a card."""
    return out / f"{check}.{re.sub(r'[^a-z0-9]+', '-', card.lower()).strip('-')}.json"


def write(path: Path, record: Facts) -> None:
    """Write a record to a temporary file and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(record, indent=2) + "\n")
    part.replace(path)


def read(path: Path) -> Facts | None:
    """Read a record; None if there is none or it is damaged."""
    try:
        record: Facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "check" in record else None


def without_places(record: Facts, folders: Iterable[Path]) -> Facts:
    """Return a record without the names of `folders` and of a user's, so that it names no machine.

    >>> without_places({"log": "File /home/me/code/a.py, /home/me/other/b.py, /opt/c.py"}, [Path("/home/me/code")])
    {'log': 'File a.py, .../other/b.py, /opt/c.py'}
    """
    text = json.dumps(record)
    for folder in folders:
        text = text.replace(f"{folder}/", "")
    found: Facts = json.loads(re.sub(r"/(tmp|home|root|work|Users)/[^/\s\\\"']+", "...", text))
    return found
