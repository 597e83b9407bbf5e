"""Validation images: the method's current results for the first samples."""

import lightning.pytorch as L
import torch

from fashiongen import tasks
from fashiongen.batches import Batch
from fashiongen.evaluation.images import grid
from fashiongen.evaluation.loggers import log_image, takes_images
from fashiongen.tasks import Task


class ValidationImages:
    """Collects the first samples of a validation, and logs the method's results for them."""

    def __init__(self, count: int) -> None:
        """Show `count` samples."""
        self.count = count
        self._batches: list[Batch] = []

    def clear(self) -> None:
        """Discard the samples of the previous validation."""
        self._batches = []

    def add(self, batch: Batch, task: Task) -> None:
        """Collect the samples of a batch until there are `count`; batches of other types than the task's are ignored."""
        missing = self.count - sum(len(collected) for collected in self._batches)
        if missing > 0 and type(batch) is task.batch:
            self._batches.append(batch.select(range(min(missing, len(batch)))))

    def log(self, trainer: L.Trainer, module: L.LightningModule, task: Task) -> None:
        """Run the method on the collected samples and log a grid, leaving the training's random state unchanged.

        All processes run their samples, in case the weights are sharded; those of the first process are shown.
        """
        batches, self._batches = self._batches, []
        if trainer.sanity_checking or not batches or not any(takes_images(logger) for logger in trainer.loggers):
            return
        devices = [module.device] if module.device.type == "cuda" else []
        rows = []
        with torch.random.fork_rng(devices), torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in batches:
                prediction = task.check_prediction(module, tasks.run(module, batch), batch)
                rows += task.gallery_rows(prediction, batch, range(len(batch)))
        if rows and trainer.is_global_zero:
            log_image(trainer, "val/images", grid(rows))
