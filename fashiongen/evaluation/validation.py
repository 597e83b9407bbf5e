"""Images of validation: the first samples, as the method makes them now."""

import lightning.pytorch as L
import torch

from fashiongen import tasks
from fashiongen.batches import Batch
from fashiongen.evaluation.images import grid
from fashiongen.evaluation.loggers import log_image, takes_images
from fashiongen.tasks import Task


class ValidationImages:
    """Remembers the first samples of a validation, and shows what the method makes of them in the run's loggers."""

    def __init__(self, count: int) -> None:
        """Show `count` samples."""
        self.count = count
        self._batches: list[Batch] = []

    def clear(self) -> None:
        """Forget the samples of the validation before."""
        self._batches = []

    def add(self, batch: Batch, task: Task) -> None:
        """Remember what is still wanted of a batch of the task; other batches have nothing to show."""
        wanted = self.count - sum(len(seen) for seen in self._batches)
        if wanted > 0 and type(batch) is task.batch:
            self._batches.append(batch.select(range(min(wanted, len(batch)))))

    def log(self, trainer: L.Trainer, module: L.LightningModule, task: Task) -> None:
        """Run the method on the remembered samples and log a grid, without a trace in the training's random state.

        All processes run theirs, in case the method takes them all (sharded weights); the first one's are shown.
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
