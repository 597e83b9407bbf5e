"""Records: one JSON file per node, written atomically. Imports nothing heavy, so that reading records starts fast."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import tempfile
import types
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

from fashiongen.errors import UserError

SCHEMA = 1
"""Incremented when older records would be misread; a new field does not increment it."""

LARGEST = 1e100
"""Larger numbers in a record mean damage, and would overflow in a mean or a variance."""

MANIFEST = "manifest.json"
"""The file that describes a folder of kept predictions."""

_hints: Callable[[Any], dict[str, Any]] = functools.cache(get_type_hints)

JUDGED_FOLDER, KEPT_PREDICTIONS = "judged folder", "kept predictions"
"""Kinds of `Record.source`: images of unknown origin, and those that an own test kept, unchanged since."""

CYCLE, GARMENTS = "-cycle", "garments-"
"""The end of a dataset's name, and the start of an overlay's, in records of a test that puts on garments that another test took off."""

Kind = Literal["test", "fit"]
Status = Literal["ok", "failed", "killed", "timeout", "skipped"]


class MetricEntry(TypedDict):
    """One metric of a record; its 95 % interval over clusters of samples is about this checkpoint, None for metrics of a whole set.

    `higher_is_better` is None for reference values that are not ranked, such as chance agreement.
    """

    value: float | None
    higher_is_better: bool | None
    ci95: list[float] | None


class GroupEntry(TypedDict):
    """The results of a group of a test's samples, such as those of one category."""

    n_samples: int
    metrics: dict[str, MetricEntry]


class WeightsEntry(TypedDict):
    """The weights of a frozen part, or a file that a method starts from.

    `source` is `tiny/PART`, `owner/name/PART` on a hub, or a path; `revision` is the hub's commit and `pinned` whether the recipe names
    that, both None for other sources. `files` holds the sha256 of each file that was read, by name.
    """

    source: str
    revision: str | None
    pinned: bool | None
    files: dict[str, str]


def write_atomically(path: str | Path, text: str) -> None:
    """Write `text` to a temporary file next to `path` and rename it, so that a kill leaves the old file or the new one."""
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
    """The result of one test or training of a method, and what is needed to trust and repeat it.

    `kind` is test or fit; a fit has no task, no protocol and no metrics. `status` is ok, failed (exited with another status than 0),
    killed (by a signal, such as out of memory), timeout (exceeded its limit) or skipped (cannot run), all but ok with a one-line
    `reason`. The benchmark sets `node`, `key` (a hash of everything the node depends on), `started` (UTC), `seconds` (wall time including
    start-up), `exit_status` and `log`. Paths of `log`, `per_sample`, `images` and `gallery` are relative to the record's folder.
    `checkpoint` holds `path`, `sha256` of the file and `weights_sha256` of only the weights: of the tested one, for a fit of the one that
    tests load (`evaluate.checkpoint`). `checkpoints` are all that a fit left, by role: `last`, and `best` with its `monitor` and `score`.

    `metrics` maps a reported name to `{value, higher_is_better, ci95}`; `ci95` is None for metrics of a whole set. `clusters` is what the
    samples of a cluster share, such as a garment; the lines of `per_sample` name each sample's cluster. `extractors` maps the
    names of metrics with an extractor to `{weights, sha256}`. `reference` describes the images they were compared with:
    `{dataset, split, field, fingerprint}`.
    `groups` maps each value of the batch's field `by`, such as a category, to `{n_samples, metrics}` of its samples; `metrics` is over all
    of them and no mean of the groups. Without several groups both are empty. The lines of `per_sample` then name each sample's group.
    `weights` are the frozen parts and all other weights that the method has read, such as those of its parents.
    `data` describes the data: `fingerprint`, `size`, the source of the `masks`, and `world: wardrobe` for the embedded world.
    `protocol_sha256` hashes the protocol's metrics with their settings, and its size.
    `source_sha256` hashes the modules of this package that the run used, `evaluation_sha256` those without the method's.
    `source` is empty for a method that was run; for predictions read from files it holds their `kind`, the `sha256` of their content, what
    was found, and the manifest of kept ones.
    `predictions` holds the `path` and `sha256` of the predictions that a test kept.
    `conditions` are what comparable results must share, as defined by the task. `images` is a folder of predictions, one ID.png each;
    `gallery` maps the headings of the other images (the input, the truth) to folders with files of the same names.
    Times are in seconds, memory in bytes.
    """

    node: str
    method: str
    task: str
    dataset: str
    split: str
    protocol: str
    kind: Kind = "test"
    status: Status = "ok"
    reason: str | None = None
    recipe: str | None = None
    overlays: list[str] = field(default_factory=list)
    parents: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    reference: dict[str, str] | None = None
    metrics: dict[str, MetricEntry] = field(default_factory=dict)
    extractors: dict[str, dict[str, str]] = field(default_factory=dict)
    by: str | None = None
    groups: dict[str, GroupEntry] = field(default_factory=dict)
    per_sample: str | None = None
    clusters: str | None = None
    images: str | None = None
    gallery: dict[str, str] = field(default_factory=dict)
    conditions: dict[str, str] = field(default_factory=dict)
    log: str | None = None
    command: str | None = None
    n_samples: int = 0
    parameters: dict[str, int] = field(default_factory=dict)
    fit_seconds: float | None = None
    seconds_per_sample: float | None = None
    peak_memory_bytes: int | None = None
    checkpoint: dict[str, str] | None = None
    checkpoints: dict[str, dict[str, str]] = field(default_factory=dict)
    weights: list[WeightsEntry] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    predictions: dict[str, str] | None = None
    data: dict[str, str] = field(default_factory=dict)
    config_sha256: str | None = None
    protocol_sha256: str | None = None
    source_sha256: str | None = None
    evaluation_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    device: str | None = None
    exit_status: int | None = None
    seconds: float | None = None
    started: str | None = None
    key: str | None = None
    schema: int = SCHEMA

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a record; unknown keys are ignored.

        Raises:
            UserError: if the file is missing, not a record, damaged, or has a newer schema.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; a record is the JSON file that --evaluate.out names") from error
        except (ValueError, RecursionError) as error:  # no UTF-8, no JSON
            raise UserError(f"{path}: not a record, or a damaged one ({error}); run its test again") from error
        schema = content.get("schema") if isinstance(content, dict) else None
        if not isinstance(schema, int) or isinstance(schema, bool):
            raise UserError(f"{path}: not a record: it is not a JSON object with a number `schema`")
        if schema > SCHEMA:
            raise UserError(f"{path}: a record with schema {schema}, but this fashiongen reads only up to {SCHEMA}: update it")
        hints = _hints(cls)
        if "pictures" in content:  # written before version 0.1
            content.setdefault("images", content["pictures"])
        known = {entry.name: content[entry.name] for entry in fields(cls) if entry.name in content}
        for name, value in known.items():
            if not _is(value, hints[name]):
                raise UserError(
                    f"{path}: {name}: {_shortened(value)} is not of type {_named(hints[name])}: the record is damaged; run its test again"
                )
        try:
            return cls(**known)
        except TypeError as error:  # a field without a default is missing
            raise UserError(f"{path}: {error}: the record is damaged: run its test again") from error

    def write(self, path: str | Path) -> None:
        """Write the record as JSON; NaN and infinity become null, since JSON has neither."""
        write_atomically(path, json.dumps(plain(asdict(self)), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def content_sha256(files: Iterable[Path]) -> str:
    """Return a sha256 over the names and contents of files, sorted by name."""
    lines = (f"{file.name} {file_sha256(file)}\n" for file in sorted(files, key=lambda file: file.name))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def kept_sha256(folder: Path) -> str:
    """Return the content's sha256 of kept predictions; folders and hidden files inside the folder are other programs'."""
    return content_sha256(file for file in folder.iterdir() if file.is_file() and file.name != MANIFEST and not file.name.startswith("."))


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is(value: Any, hint: Any) -> bool:  # noqa: ANN401  any JSON value, any annotation of a field
    """Return whether a JSON value has the annotated type; an int is a valid float."""
    if hint is Any:
        return True
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_is(value, one) for one in inner)
    if origin is Literal:
        return value in inner and isinstance(value, str)
    if origin is list:
        return isinstance(value, list) and all(_is(entry, inner[0]) for entry in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is(entry, inner[1]) for entry in value.values())
    if is_typeddict(hint):
        hints = _hints(hint)
        return isinstance(value, dict) and all(name in value and _is(value[name], hints[name]) for name in hints)
    if hint in (float, int):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return isinstance(value, hint)


def _named(hint: Any) -> str:  # noqa: ANN401  any annotation
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "").replace(f"{__name__}.", "")


def _shortened(value: Any) -> str:  # noqa: ANN401  any JSON value
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def plain(value: Any) -> Any:  # noqa: ANN401  walks any JSON value
    """Return a JSON value with NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
