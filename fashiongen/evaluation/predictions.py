"""Predictions written to files."""

import contextlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback

from fashiongen.batches import Batch, to_uint8
from fashiongen.errors import UserError
from fashiongen.evaluation.images import checked, image_name, write_png

PENDING_IMAGES = 64


class WritePredictions(Callback):
    """Writes what `predict_step` returns as `ID.png`, one file a sample, while the next batch is computed."""

    def __init__(self, out: str) -> None:
        """Write to the folder `out`; an image of the same name is replaced."""
        self.out = Path(out).expanduser()
        self._pool: ThreadPoolExecutor | None = None
        self._pending: deque[Future[None]] = deque()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Make the folder.

        Raises:
            UserError: if it cannot be made.
        """
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {self.out} for the predictions: {error.strerror}; choose another --out") from error

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the threads that write."""
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="write-png")

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Hand the batch's images (B, 3, H, W) in [-1, 1] to the writers.

        Raises:
            UserError: if a prediction is not finite, an id cannot be a file name, or a file cannot be written.
        """
        prediction = checked(pl_module, outputs, batch)
        names = [image_name(id_) for id_ in batch.ids]
        if not prediction.isfinite().all():
            broken = [id_ for id_, image in zip(batch.ids, prediction, strict=True) if not image.isfinite().all()]
            raise UserError(f"{type(pl_module).__name__}'s image of {broken[0]} is not finite: broken weights, or too low a precision")
        assert self._pool is not None
        for name, image in zip(names, to_uint8(prediction).cpu(), strict=True):
            self._pending.append(self._pool.submit(write_png, self.out / name, image))
        while len(self._pending) > PENDING_IMAGES:
            self._pending.popleft().result()

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait until all is written."""
        self._close(cancel=False)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Let the writers finish what they are at; what went wrong first is what is told."""
        with contextlib.suppress(UserError):
            self._close(cancel=True)

    def _close(self, *, cancel: bool) -> None:
        pool, self._pool = self._pool, None
        pending, self._pending = self._pending, deque()
        if pool is None:
            return
        pool.shutdown(wait=True, cancel_futures=cancel)
        for written in pending:
            if not written.cancelled():
                written.result()
