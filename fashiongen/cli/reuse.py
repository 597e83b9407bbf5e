"""`evaluate.reuse`: tests of the same weights, data and settings share the predictions of the first, whatever their protocols."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from pathlib import Path
from typing import IO, Any

import lightning.pytorch as L

from fashiongen import tasks
from fashiongen.cli.checkpoints import RESUMES
from fashiongen.data.base import FashionData
from fashiongen.errors import UserError
from fashiongen.evaluation import Evaluate, FromFiles
from fashiongen.evaluation.judge import Request
from fashiongen.evaluation.kept import KeptPredictions, Manifest
from fashiongen.evaluation.provenance import checkpoint, code_of, weights_sha256
from fashiongen.methods.base import Method
from fashiongen.own_code import own_sources, versions_of
from fashiongen.tasks import Task

SETTINGS = ("model", "data", "parents")
TRAINER_SETTINGS = ("precision", "limit_test_batches", "fast_dev_run", "callbacks")
"""The keys of a recipe that decide a test's predictions; its `evaluate` only judges them."""


class SharedPredictions:
    """The kept predictions of one method, checkpoint, data and settings, locked until the test ends.

    A second test of the same waits for the first, and then finds its predictions. The lock is free when its process is gone.
    """

    def __init__(self, folder: Path, key: str) -> None:
        """Take the lock.

        Raises:
            UserError: if the folder cannot be written.
        """
        self.folder = folder / key[:32]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (folder / f"{key[:32]}.lock").open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"evaluate.reuse: waiting for another test that makes these predictions ({self._lock.name})", flush=True)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(f"evaluate.reuse: cannot write {folder}: {error.strerror}; choose another --evaluate.reuse") from error

    def stand_in(self, model: Method) -> FromFiles | None:
        """Return what reads the predictions in place of `model`; None if there are none, or they have been changed."""
        try:
            manifest = Manifest.read(self.folder)
        except UserError:  # damaged: sample again
            return None
        if manifest is None or not manifest.intact(self.folder):
            return None
        method = FromFiles()
        method.request = Request(folder=self.folder, reused=True, made_by=model)
        return method

    def release(self, *, usable: bool = True) -> None:
        """Let the next test have them, if they are `usable`: not of a checkpoint that was replaced while the test began."""
        if not usable:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def can_share(evaluate: Evaluate, trainer: L.Trainer, data: FashionData, tested: str | None) -> bool:
    """Return whether a test can share predictions: all of them, made by one process from a file, and of a task that is read from files.

    Args:
        evaluate: the test's evaluation.
        trainer: runs the test.
        data: the data, before their setup.
        tested: the checkpoint as typed; Lightning itself finds the file of words such as `last`.
    """
    complete = isinstance(trainer.limit_test_batches, float) and trainer.limit_test_batches == 1  # an int is a number of batches
    named = tested is None or (tested not in RESUMES and Path(tested).exists())
    try:
        task = tasks.find(str(evaluate.task_name or getattr(data, "task", "")))
    except UserError:  # the test itself tells
        return False
    return trainer.world_size == 1 and complete and named and task.read_prediction is not Task.read_prediction


def share(
    evaluate: Evaluate, model: Method, data: FashionData, settings: dict[str, Any], tested: str | None
) -> tuple[SharedPredictions, FromFiles | None]:
    """Find the predictions that a test shares, or let it keep them.

    Args:
        evaluate: the test's evaluation, whose `reuse` names the folder.
        model: the method, before its checkpoint is loaded.
        data: the data.
        settings: the resolved settings of the command.
        tested: the checkpoint.

    Returns:
        The locked predictions, and what reads them in place of the method; None if there are none yet.

    Raises:
        UserError: if the predictions are to be kept elsewhere too, or the folder cannot be written.
    """
    assert evaluate.reuse is not None
    if evaluate.keep is not None:
        raise UserError("evaluate.keep and evaluate.reuse both keep predictions: give one of them")
    data.prepare_data()
    data.setup("test")
    task = tasks.find(evaluate.task_name or data.task)
    named = [f"{kind.__module__}.{kind.__qualname__}" for kind in (type(model), type(data), task)]
    code = code_of(model, data, task())
    decides = {
        **{name: settings.get(name) for name in SETTINGS},
        **{name: settings["trainer"].get(name) for name in TRAINER_SETTINGS},
        "seed": model.seed,
        # All weights: `pretrained` may name a folder whose files have changed, those that hold no weights (configs, tokenizers) too.
        "weights": weights_sha256({**dict(model.named_parameters()), **dict(model.named_buffers())}),
        "files": [reading.entry()["files"] for reading in model.weights_read],
        "checkpoint": None if tested is None else checkpoint(tested)["sha256"],
        "draws": evaluate.protocol.draws,
        "fingerprint": data.fingerprint(),
        "code": code.sha256,
        "own": [versions_of(code.libraries), own_sources([named, *(settings[name] for name in ("model", "data"))])],
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()
    shared = SharedPredictions(evaluate.reuse, key)
    stand_in = shared.stand_in(model)
    if stand_in is None:
        shutil.rmtree(shared.folder, ignore_errors=True)  # changed ones, if any
        evaluate.keep = KeptPredictions(shared.folder)
    return shared, stand_in
