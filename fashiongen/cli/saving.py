"""When checkpoints are saved: a monitored one holds the weights that got its score, and `last.ckpt` holds the last weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint

from fashiongen.errors import UserError

PLACE = "trainer.callbacks"


class KeepLast(Checkpoint):
    """Makes `save_last` of every ModelCheckpoint mean what it says.

    Lightning writes `last.ckpt` only together with a best checkpoint, with `save_top_k: 0` only at the end of training, and with
    `every_n_train_steps` not at the end. With this callback it is written after every validation (or training epoch without one), whether
    the score improved or not, unless `every_n_train_steps` or `train_time_interval` set another rhythm; and always at the end of training.

    It comes after all ModelCheckpoints, so `last.ckpt` holds their state after the validation: a resumed run knows the best score so far.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after a validation."""
        for saving in _saving_last(trainer):
            if _follows_validation(saving) and not saving._should_save_on_train_epoch_end(trainer):
                _save_last(saving, trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after a training epoch, where that is when the ModelCheckpoint saves, and at the end of training.

        Not in `on_train_end`: a callback that averages weights has replaced the raw weights by then, and training could not resume.
        """
        ends = _ends(trainer)
        for saving in _saving_last(trainer):
            if ends or (_follows_validation(saving) and saving._should_save_on_train_epoch_end(trainer)):
                _save_last(saving, trainer)


def _saving_last(trainer: L.Trainer) -> list[ModelCheckpoint]:
    return [saving for saving in trainer.checkpoint_callbacks if isinstance(saving, ModelCheckpoint) and saving.save_last]


def _follows_validation(saving: ModelCheckpoint) -> bool:
    return not saving._every_n_train_steps and saving._train_time_interval is None


def _ends(trainer: L.Trainer) -> bool:
    """Return whether the current epoch is the last; as in Lightning's `fit_loop.done`, which also prints why."""
    loop = trainer.fit_loop
    limit = -1 if loop.max_epochs is None else loop.max_epochs
    epochs: Any = loop.epoch_progress.current  # its declared type has no `processed`
    return loop.epoch_loop._is_training_done or epochs.processed >= limit > -1 or trainer.should_stop


def _save_last(saving: ModelCheckpoint, trainer: L.Trainer) -> None:
    if not saving._should_skip_saving_checkpoint(trainer):
        saving._save_last_checkpoint(trainer, saving._monitor_candidates(trainer))


def check_saving(trainer: L.Trainer, checkpoint: str) -> None:
    """Reject callbacks that would act on the score of other weights than the current ones.

    Args:
        trainer: with its callbacks.
        checkpoint: which checkpoint tests load (`evaluate.checkpoint`), last or best.

    Raises:
        UserError: naming the key and the remedy.
    """
    callbacks: Iterable[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning does not declare it
    each_epoch = trainer.check_val_every_n_epoch == 1 and trainer.val_check_interval == 1.0
    monitored = False
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(callback, ModelCheckpoint | EarlyStopping) or monitor is None:
            continue
        monitored |= isinstance(callback, ModelCheckpoint)
        if monitor.startswith("train"):  # known as soon as a step is done
            continue
        found = _early(callback, each_epoch) if isinstance(callback, EarlyStopping) else _stale(callback, each_epoch)
        if found is not None:
            raise UserError(f"{PLACE}: {type(callback).__name__} with monitor: {monitor}: {found}")
    if checkpoint == "best" and not monitored:
        raise UserError(f"evaluate.checkpoint: best, but no ModelCheckpoint in {PLACE} has a monitor: add one, or set it to last")


def _early(stopping: EarlyStopping, each_epoch: bool) -> str | None:
    if stopping._check_on_train_epoch_end and not each_epoch:
        return "check_on_train_epoch_end counts an old score again where no validation ends the epoch: leave it out"
    return None


def _stale(saving: ModelCheckpoint, each_epoch: bool) -> str | None:
    before = "saves before the validation, so that the file would not hold the weights that got its score"
    after = "leave it out, and it saves after each validation"
    for key in ("every_n_train_steps", "train_time_interval"):
        if getattr(saving, f"_{key}"):
            return f"{key} {before}: {after}"
    if saving._save_on_train_epoch_end and not each_epoch:
        return f"save_on_train_epoch_end {before}: {after}"
    if saving.save_on_exception:
        return "save_on_exception gives weights that were not validated the name of the best: set it on a ModelCheckpoint without monitor"
    if saving.save_last == "link":
        return "save_last: link makes last.ckpt the best checkpoint, not the last: set save_last: true"
    fixed = saving.filename is not None and "{" not in saving.filename and not saving._enable_version_counter
    if fixed and saving.save_top_k not in (0, 1):
        return f"save_top_k: {saving.save_top_k} files would share the filename {saving.filename}: set save_top_k: 1, or add {{step}} to it"
    return None
