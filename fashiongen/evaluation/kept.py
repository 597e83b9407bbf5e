"""Kept predictions: a folder with the predictions of a test and a manifest, so that further protocols need no second sampling.

Images are PNG files named after the sample ids; what is no image, such as rankings, is in one compressed file. The manifest is the record
of the test that kept them, with a part `kept`: the ids, the hash of the content, and which predictions were not finite.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import lightning.pytorch as L
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fashiongen.batches import Batch
from fashiongen.errors import UserError
from fashiongen.evaluation.divergence import broken_weights
from fashiongen.evaluation.images import file_name
from fashiongen.evaluation.predictions import PngWriter
from fashiongen.nn.processes import gather
from fashiongen.records import MANIFEST, Record, content_sha256, kept_sha256, plain, write_atomically
from fashiongen.tasks import Task

TABLES = "predictions.npz"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest of kept predictions.

    Attributes:
        record: the record of the test that kept them.
        ids: the sample ids, sorted.
        sha256: of the content, see `fashiongen.records.content_sha256`.
        not_finite: ids whose prediction was not finite; they have no file.
        size: of the images, such as 512x384; empty without images.
        broken_weights: which of the method's weights were not finite, in words; empty if none.
    """

    record: Record
    ids: list[str]
    sha256: str
    not_finite: list[str]
    size: str = ""
    broken_weights: str = ""

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """Read the manifest of a folder; None if it has none, or another program's.

        Raises:
            UserError: if it is damaged.
        """
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: damaged ({error}); remove it to judge the images alone") from error
        kept = content.get("kept") if isinstance(content, dict) else None
        if not isinstance(kept, dict):
            return None
        kept.setdefault("broken_weights", "")  # older ones lack it
        record = Record.read(path)
        lists = [kept.get("ids"), kept.get("not_finite")]
        if not all(isinstance(ids, list) and all(isinstance(id_, str) for id_ in ids) for ids in lists) or not all(
            isinstance(kept.get(name), str) for name in ("sha256", "size", "broken_weights")
        ):
            raise UserError(f"{path}: damaged: `kept` lacks ids, not_finite, sha256 or size; remove it to judge the images alone")
        return cls(record=record, **{name: kept[name] for name in ("ids", "not_finite", "sha256", "size", "broken_weights")})

    def intact(self, folder: Path) -> bool:
        """Return whether the folder holds what it held when this was written; folders and hidden files inside it are other programs'."""
        return kept_sha256(folder) == self.sha256

    def write(self, folder: Path) -> None:
        """Write it atomically."""
        here = replace(self.record, images=None, gallery={}, per_sample=None, predictions=None)  # these are beside the record
        kept = {name: getattr(self, name) for name in ("sha256", "size", "broken_weights", "not_finite", "ids")}
        write_atomically(folder / MANIFEST, json.dumps(plain({**asdict(here), "kept": kept}), indent=1, ensure_ascii=False) + "\n")


def restore(folder: Path) -> None:
    """Put earlier predictions back that a test moved aside and was killed before it put new ones in their place."""
    if not folder.exists() and _aside(folder).is_dir() and not _being_written(folder):
        _aside(folder).rename(folder)


def _being_written(folder: Path) -> bool:
    """Return whether a living test is about to put new predictions there itself; a killed one leaves its file, and no lock."""
    try:
        with _writing(folder).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _writing(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.writing")


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


class KeptPredictions:
    """Writes the predictions of a test to a folder, which appears only once it is complete."""

    def __init__(self, folder: Path) -> None:
        """Write to `folder`."""
        self.folder = folder
        self.part = folder.with_name(f".{folder.name}.part")
        self._writer: PngWriter | None = None
        self._ids: list[str] = []
        self._not_finite: list[str] = []
        self._sizes: set[str] = set()
        self._rows: dict[str, list[Tensor]] = {}
        self._labels: dict[str, list[str]] = {}
        self._parts: list[Any] = []
        self._started = False
        self._own = _writing(folder)
        self._lock: IO[str] | None = None
        self._broken_weights: str | None = None

    def check_writable(self) -> None:
        """Check that the folder can be written, and is new, empty or holds kept predictions, which are replaced.

        Raises:
            UserError: if not.
        """
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            restore(self.folder)
            if not os.access(self.folder.parent, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            taken = self.folder.exists() and any(self.folder.iterdir())
        except OSError as error:
            raise UserError(f"evaluate.keep: cannot write {self.folder}: {error.strerror}; choose another --evaluate.keep") from error
        if taken and Manifest.read(self.folder) is None:
            raise UserError(f"evaluate.keep: {self.folder} holds other files: choose a new folder")

    def start(self, trainer: L.Trainer) -> None:
        """Make an empty temporary folder, once for all processes; it belongs to this test until `finish` or `discard`.

        Raises:
            UserError: if another test is writing to the same folder: images of both would be mixed.
        """
        if trainer.is_global_zero:
            self._lock = self._own.open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"evaluate.keep: another test is writing to {self.folder}: wait, or choose another folder") from error
            shutil.rmtree(self.part, ignore_errors=True)
            self.part.mkdir()
        trainer.strategy.barrier("kept predictions")
        self._writer, self._started = PngWriter(), True
        self._broken_weights = broken_weights(trainer.lightning_module)
        self._ids, self._not_finite, self._sizes, self._rows = [], [], set(), {}

    def add(self, task: Task, prediction: Any, batch: Batch) -> None:  # noqa: ANN401  what a task returns is its own
        """Write a batch's predictions, after the metrics have been updated.

        Raises:
            UserError: if an id cannot be a file name, or a file cannot be written.
        """
        assert self._writer is not None
        self._ids += batch.ids
        if task.kept_as == "rows":
            for name, rows in task.kept_rows(prediction, batch).items():
                self._rows.setdefault(name, []).append(rows.cpu())
            self._labels = task.kept_labels()
            return
        for name, image in task.images(prediction, batch):
            path = self.part / file_name(name)
            if bool(image.isfinite().all()):
                self._writer.add(path, image)
            else:
                self._not_finite.append(name)
            self._sizes.add("x".join(map(str, image.shape[1:])))

    def gather(self) -> None:
        """Wait for the files, and gather what the manifest needs from all processes; `finish` tells what went wrong."""
        assert self._writer is not None
        writer, self._writer, problem = self._writer, None, None
        try:
            writer.close(cancel=False)
        except UserError as error:
            problem = str(error)
        rows = {name: np.concatenate([part.numpy() for part in parts]) for name, parts in self._rows.items()}
        self._parts = gather((self._ids, self._not_finite, self._sizes, rows, self._labels, problem))

    def finish(self, record: Record) -> None:
        """Complete the folder with its manifest, in the first process, and name it in the test's record.

        Raises:
            UserError: if a process could not write a file.
        """
        parts = self._parts
        if problems := [part[5] for part in parts if part[5]]:
            raise UserError(problems[0])
        ids = [id_ for part in parts for id_ in part[0]]
        order = np.argsort(np.array(ids, dtype=object), kind="stable")  # the file is the same on any number of processes
        names = dict.fromkeys(name for part in parts for name in part[3])
        if tables := {name: np.concatenate([part[3][name] for part in parts if name in part[3]])[order] for name in names}:
            labels = {f"labels.{name}": np.array(listed) for part in parts for name, listed in part[4].items()}
            packed = {name: table.astype(np.int16) if table.max(initial=0) < 2**15 else table for name, table in tables.items()}
            np.savez_compressed(self.part / TABLES, ids=np.array(sorted(ids)), **labels, **packed)  # type: ignore[arg-type]  # numpy types its options
        manifest = Manifest(
            record=record,
            ids=sorted(ids),
            sha256=content_sha256(self.part.iterdir()),
            not_finite=sorted(name for part in parts for name in part[1]),
            size=", ".join(sorted(set().union(*(part[2] for part in parts)))),
            broken_weights=self._broken_weights or "",
        )
        manifest.write(self.part)
        replaced = _aside(self.folder)
        if self.folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            self.folder.rename(replaced)
        self.part.rename(self.folder)
        shutil.rmtree(replaced, ignore_errors=True)
        self._started = False
        self._release()
        record.predictions = {"path": str(self.folder), "sha256": manifest.sha256}

    def discard(self) -> None:
        """Stop after an error; the folder of an earlier test stays."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(UserError):
                writer.close(cancel=True)
        if self._started:
            shutil.rmtree(self.part, ignore_errors=True)
            self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._own.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None


class Tables:
    """The rows of kept predictions; nothing in the file can run code."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            UserError: if it is missing or damaged.
        """
        self.path = path
        self._arrays: dict[str, NDArray[Any]]
        try:
            with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as content:  # a bare array is no zip file
                self._arrays = {name: content[name] for name in content.files}
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing, which holds the kept predictions of this task") from error
        except Exception as error:  # a damaged zip file or array can raise almost anything
            raise UserError(f"{path}: damaged, or not written by `--evaluate.keep` ({error})") from error
        self.ids = self._get("ids", 1).tolist()
        self._place = {id_: index for index, id_ in enumerate(self.ids)}

    def rows(self, name: str, ids: Iterable[str]) -> NDArray[Any]:
        """Return the rows of samples in a table.

        Raises:
            UserError: if there is no such table.
        """
        table = self._get(name, 2)
        if len(table) != len(self.ids) or table.dtype.kind not in "iu":
            raise UserError(f"{self.path}: damaged: {name} has {len(table)} rows for {len(self.ids)} ids")
        found: NDArray[Any] = table[[self._place[id_] for id_ in ids]]
        return found.astype(found.dtype.newbyteorder("="))  # torch takes this machine's byte order alone

    def labels(self, name: str) -> list[str]:
        """Return a list of names.

        Raises:
            UserError: if there is no such list.
        """
        return [str(label) for label in self._get(f"labels.{name}", 1)]

    def _get(self, name: str, dimensions: int) -> NDArray[Any]:
        array = self._arrays.get(name)
        if not isinstance(array, np.ndarray) or array.ndim != dimensions:
            raise UserError(f"{self.path}: holds no {name}: it was not written by `--evaluate.keep`, or for another task")
        return array
