"""Writes predictions to files."""

import contextlib
import json
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from fashiongen import tasks
from fashiongen.batches import Batch, to_uint8
from fashiongen.errors import UserError
from fashiongen.evaluation.images import file_name, write_png
from fashiongen.nn.processes import gather
from fashiongen.records import write_atomically

PENDING_IMAGES = 64


class PngWriter:
    """Writes PNG files in threads, a bounded number at a time."""

    def __init__(self) -> None:
        """Start the threads."""
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="write-png")
        self._pending: deque[Future[None]] = deque()

    def add(self, path: Path, image: Tensor) -> None:
        """Write an image (3, H, W) in [-1, 1].

        Raises:
            UserError: if an earlier file could not be written.
        """
        self._pending.append(self._pool.submit(write_png, path, to_uint8(image).cpu()))
        while len(self._pending) > PENDING_IMAGES:
            self._pending.popleft().result()

    def close(self, *, cancel: bool) -> None:
        """Wait for the files that have been started and, without `cancel`, for all others.

        Raises:
            UserError: if a file could not be written.
        """
        pending, self._pending = self._pending, deque()
        self._pool.shutdown(wait=True, cancel_futures=cancel)
        for written in pending:
            if not written.cancelled():
                written.result()


class WritePredictions(Callback):
    """Writes the results of `predict_step` as PNG files, named by the task, while the next batch is computed.

    A task's captions go to `captions.jsonl`, one line per image.
    """

    def __init__(self, out: str) -> None:
        """Write to the folder `out`; existing images of the same name are replaced."""
        self.out = Path(out).expanduser()
        self._writer: PngWriter | None = None
        self._captions: list[dict[str, Any]] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Create the folder.

        Raises:
            UserError: if it cannot be created.
        """
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {self.out} for the predictions: {error.strerror}; choose another --out") from error

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the writer threads."""
        self._captions = []
        self._writer = PngWriter()

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Pass the batch's images to the writers.

        Raises:
            UserError: if a prediction is not finite, an id cannot be a file name, or a file cannot be written.
        """
        task = tasks.task_of(batch)()
        prediction = task.check_prediction(pl_module, outputs, batch)
        images = [(file_name(name), image) for name, image in (*task.images(prediction, batch), *task.sheets(prediction, batch))]
        finite = torch.stack([image.isfinite().all() for _, image in images]).tolist() if images else []
        if not all(finite):
            broken = images[finite.index(False)][0]
            raise UserError(f"{type(pl_module).__name__}: the image {broken} is not finite: broken weights, or too low a precision")
        assert self._writer is not None
        for name, image in images:
            self._writer.add(self.out / name, image)
        self._captions += task.captions(prediction, batch) or []

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait for the writers, and write the captions of all processes."""
        self._close(cancel=False)
        captions = [caption for part in gather(self._captions) for caption in part]
        if captions and trainer.is_global_zero:
            lines = sorted(json.dumps(caption, ensure_ascii=False) + "\n" for caption in captions)
            write_atomically(self.out / "captions.jsonl", "".join(lines))

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Let the writers finish their current files; only the first error is raised."""
        with contextlib.suppress(UserError):
            self._close(cancel=True)

    def _close(self, *, cancel: bool) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close(cancel=cancel)
