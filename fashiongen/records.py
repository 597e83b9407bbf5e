"""Records: one JSON file a node, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1


def write_atomically(path: str | Path, text: str) -> None:
    """Write `text` to a temporary file beside `path` and rename it, so that a kill leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@dataclass(kw_only=True)
class Record:
    """What one test of one method showed, and what one needs to trust and repeat it.

    `metrics` maps a reported name to `{value, higher_is_better, ci95}`; `ci95` is None for metrics of a whole set. `extractors` maps the
    names of those that have one to `{weights, sha256}`. `reference` tells what set of true pictures they were held against:
    `{dataset, split, field, fingerprint}`.
    Times are in seconds, memory in bytes.
    """

    node: str
    method: str
    task: str
    dataset: str
    split: str
    protocol: str
    status: str = "ok"
    reason: str | None = None
    recipe: str | None = None
    overlays: list[str] = field(default_factory=list)
    parents: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    reference: dict[str, str] | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    extractors: dict[str, dict[str, str]] = field(default_factory=dict)
    per_sample: str | None = None
    pictures: str | None = None
    log: str | None = None
    command: str | None = None
    n_samples: int = 0
    parameters: dict[str, int] = field(default_factory=dict)
    fit_seconds: float | None = None
    seconds_per_sample: float | None = None
    peak_memory_bytes: int | None = None
    checkpoint: dict[str, str] | None = None
    data: dict[str, str] = field(default_factory=dict)
    config_sha256: str | None = None
    source_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    device: str | None = None
    schema: int = SCHEMA

    def write(self, path: str | Path) -> None:
        """Write the record as JSON; a value that is not a number becomes null, since JSON has no NaN."""
        write_atomically(path, json.dumps(_plain(asdict(self)), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:  # noqa: ANN401  walks any JSON value
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
