"""The callback that evaluates a method: metrics, intervals, images and the record of a test."""

import shlex
import sys
import time
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torchmetrics import Metric

from fashiongen.batches import Batch
from fashiongen.data.base import FashionData
from fashiongen.evaluation.checks import data_of, task_of_run
from fashiongen.evaluation.clusters import chained
from fashiongen.evaluation.divergence import broken_weights, metrics_doubt, tell
from fashiongen.evaluation.images import grid
from fashiongen.evaluation.judge import FromFiles
from fashiongen.evaluation.kept import KeptPredictions
from fashiongen.evaluation.loggers import log_image
from fashiongen.evaluation.provenance import (
    TestedCheckpoint,
    checkpoints_left,
    code_sha256,
    conditions,
    data_info,
    device_name,
    finish_reading,
    now,
    parameters,
    peak_memory,
    variant,
    versions,
    weights,
    weights_sha256,
)
from fashiongen.evaluation.reference import Reference
from fashiongen.evaluation.report import Report, print_table
from fashiongen.evaluation.results import Counted, Results, reduce
from fashiongen.evaluation.validation import ValidationImages
from fashiongen.metrics.shared import shared_features
from fashiongen.nn.processes import gather
from fashiongen.records import MetricEntry, Record
from fashiongen.tasks import Filter, GalleryRow, Protocol, Repaint, Resize, Task

FIT_SECONDS = "fit_seconds"


class Evaluate(Callback):
    """Evaluates the results of `test_step`: metrics, intervals, images and a record; logs images during validation.

    Everything task-specific is in the task's handler (`fashiongen.tasks`). The metrics are not part of the method: they appear neither in
    its checkpoint nor in its parameters.

    Attributes:
        results: the metrics after a test, by reported name, each `{value, higher_is_better, ci95}`.
        recipe: name of the recipe, for the record; the command line sets this and the next four.
        overlays: names of the further config files.
        parents: the checkpoints of earlier stages, by role.
        config_sha256: hash of the resolved config.
        protocol_sha256: hash of the protocol's metrics and size.
        tested: the checkpoint of a test, as it was when it was loaded.
    """

    def __init__(
        self,
        task: str | None = None,
        protocol: str = "",
        metrics: dict[str, Metric] | None = None,
        size: tuple[int, int] | None = None,
        resize: Resize | None = None,
        filter: Filter | None = None,
        repaint: Repaint | None = None,
        reference: Reference | None = None,
        unpaired: list[str] | None = None,
        by: str | None = None,
        draws: int | None = None,
        out: str | None = None,
        keep: str | None = None,
        reuse: str | None = None,
        images: int = 16,
        validation_images: int = 8,
        checkpoint: Literal["last", "best"] = "last",
    ) -> None:
        """Configure the evaluation.

        Args:
            task: name of the task, or `package.module.Class` for a task in another package; by default the data's task.
            protocol: name of the protocol that the metrics follow, for the record.
            metrics: metrics by name; one with an extractor is reported as `name[extractor]`.
            size: height and width that the protocol requires; data of another size are rejected. By default any.
            resize: how `fashiongen judge` resizes images of another size, see `fashiongen.tasks.Resize`; by default it rejects them.
            filter: how the data must resize images, see `fashiongen.tasks.Filter`; by default any.
            repaint: how predictions are pasted into the photo before they are compared, see `fashiongen.tasks.Repaint`; by default not.
            reference: the reference images for set metrics, if they are not the truth of each sample; those of another dataset leave
                nothing to compare pairs with, so that paired metrics are rejected.
            unpaired: names of the metrics of an unpaired test, which has no true images outside of the embedded world; by default all.
            by: a field of the samples, such as category: the metrics are computed for each of its values too.
            draws: how often each blank of an outfit is filled, for tasks with several results per sample; by default as the method is set.
            out: JSON file for the record of a test or a fit; a test writes per-sample values, images and an image grid next to it.
            keep: folder in which a test keeps all predictions for `fashiongen judge`; kept predictions of an earlier test are replaced.
            reuse: folder of kept predictions that tests share: a test of the same weights, data and settings of the method reads the
                predictions of an earlier one, whatever its protocol; the first keeps them. Used by tests on a single device.
            images: number of predictions to write as PNG, the first ones by id.
            validation_images: number of validation samples to show in the logger.
            checkpoint: which of a training's checkpoints stands for it: the benchmark tests it, and later stages start from it. `best` has
                the best score of the ModelCheckpoint with a monitor, for methods whose paper selects so.
        """
        self.task_name = task
        self._stated = Protocol(
            name=protocol,
            metrics=metrics or {},
            size=size,
            resize=resize,
            filter=filter,
            repaint=repaint,
            reference=reference,
            unpaired=unpaired,
            by=by,
            draws=draws,
        )
        self.protocol = self._stated
        self.out = None if out is None else Path(out).expanduser()
        self.keep = None if keep is None else KeptPredictions(Path(keep).expanduser())
        self.reuse = None if reuse is None else Path(reuse).expanduser()
        self.images = images
        self.checkpoint = checkpoint
        self.recipe: str | None = None
        self.overlays: list[str] = []
        self.parents: dict[str, str] = {}
        self.config_sha256: str | None = None
        self.protocol_sha256: str | None = None
        self.results: dict[str, MetricEntry] = {}
        self.tested: TestedCheckpoint | None = None
        self._code: dict[str, str] = {}
        self._task: Task | None = None
        self._validation = ValidationImages(validation_images)
        self._counted = Counted()
        self._rows: list[GalleryRow] = []
        self._memory = 0
        self._device: str | None = None
        self._started = 0.0
        self._fit_seconds: float | None = None

    @property
    def metrics(self) -> dict[str, Metric]:
        """The protocol's metrics by name; after `setup` those that apply to the data."""
        return self.protocol.metrics

    @property
    def task(self) -> Task:
        """The handler of the task; available after `setup`."""
        assert self._task is not None, "setup comes first"
        return self._task

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the training time so far in the checkpoint, for resumed runs and for the records of tests."""
        if trainer.training and self._fit_seconds is not None:
            checkpoint[FIT_SECONDS] = self._fit_seconds + time.perf_counter() - self._started

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the training time of the checkpoint, and identify the weights that a test loads."""
        self._fit_seconds = checkpoint.get(FIT_SECONDS)
        if trainer.testing and trainer.is_global_zero and trainer.ckpt_path is not None:
            if self.tested is None or self.tested.loaded is not None:  # the command line has looked at the file before it was loaded
                self.tested = TestedCheckpoint(trainer.ckpt_path)
            if state := checkpoint.get("state_dict"):  # DeepSpeed loads its weights from other files
                self.tested.loaded = weights_sha256(state)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check before any work that method, data, task and protocol fit together.

        Raises:
            UserError: if the task is unknown or not supported by the method or the data, the data lack a part that the method or the
                evaluation needs or have another size than the protocol's, a metric's weights are missing, or the record cannot be written.
        """
        finish_reading(pl_module)
        data = data_of(trainer)
        self._task = task_of_run(self.task_name, pl_module, data)
        self.protocol = self.task.applied(data, self._stated)
        # What runs from here on: files may be edited before a long run ends.
        reference = [] if self.protocol.reference is None or self.protocol.reference.own else [self.protocol.reference.source]
        method = (isinstance(pl_module, FromFiles) and pl_module.request and pl_module.request.made_by) or pl_module
        self._code = code_sha256(method, data, *reference, self.task, *self.metrics.values())
        if stage in ("fit", "test") and self.out is not None and trainer.is_global_zero:
            Report(self.out).check_writable()
        if stage == "test":
            if self.keep is not None and trainer.is_global_zero:
                self.keep.check_writable()
            self.task.check_data(data, self.protocol)
            for metric in self.metrics.values():
                # Metrics load their networks lazily; load them now to find missing weights early.
                if prepare := getattr(metric, "prepare", None):
                    prepare()
            if isinstance(pl_module, FromFiles):
                pl_module.open(self.task, self.protocol, data)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the metrics to the module's device (it is not there yet in `setup`), reset them and let the task prepare."""
        for metric in self.metrics.values():
            metric.to(pl_module.device)
            metric.reset()
        self.results, self._counted, self._rows = {}, Counted(), []
        reference, by = self.protocol.reference, self.protocol.by
        self._counted.references = None if reference is None or by is None else reference.groups(trainer, by)
        with shared_features():
            if isinstance(pl_module, FromFiles):
                assert pl_module.files is not None, "setup comes first"
                self.task.start_judging(trainer, pl_module, self.protocol, pl_module.files)
            else:
                self.task.start(trainer, pl_module, self.protocol)
        if self.keep is not None:
            self.keep.start(trainer)

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Start the clock and reset the memory peak, so that the metrics' memory is not counted."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._started = now(pl_module.device)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop the clock and update the metrics with the prediction and the batch's targets."""
        counted = self._counted
        counted.seconds += now(pl_module.device) - self._started
        counted.memory = max(counted.memory, peak_memory(pl_module.device))
        if not len(batch):  # none of its samples has a prediction to judge
            return
        counted.ids += batch.ids
        counted.shared += self.task.shared_keys(batch)
        counted.groups += self.task.groups(batch, self.protocol)
        prediction = self.task.check_prediction(pl_module, outputs, batch)
        with shared_features():
            counted.not_finite += self.task.update(pl_module, prediction, batch, self.protocol)
        if self.keep is not None:
            self.keep.add(self.task, prediction, batch)
        # Only the first samples by id are shown.
        first = set(sorted([*(row.id for row in self._rows), *batch.ids])[: self.images])
        fresh = self.task.gallery_rows(prediction, batch, [index for index, id_ in enumerate(batch.ids) if id_ in first])
        self._rows = sorted([*(row for row in self._rows if row.id in first), *fresh], key=lambda row: row.id)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reduce the metrics over all processes once; the first process prints, logs and writes."""
        results = reduce({_reported(name, metric): metric for name, metric in self.metrics.items()}, self._counted)
        self.results = results.metrics
        first = set(results.ids[: self.images])
        rows = [row for part in gather([row for row in self._rows if row.id in first]) for row in part]
        self._rows = sorted(rows, key=lambda row: row.id)
        if self.keep is not None:
            self.keep.gather()
        if trainer.is_global_zero:
            # A logger that fails, such as one whose server is gone, must not lose the record.
            self._write_record(trainer, results, pl_module)
            self._log(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove predictions that are not complete."""
        if self.keep is not None:
            self.keep.discard()

    def _log(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            logged = {f"test/{name}": value for name, result in self.results.items() if (value := result["value"]) is not None}
            logger.log_metrics(logged, step=trainer.global_step)
        if self._rows:
            log_image(trainer, "test/images", grid(self._rows))

    def _write_record(self, trainer: L.Trainer, results: Results, pl_module: L.LightningModule) -> None:
        data, ids, not_finite = data_of(trainer), results.ids, results.not_finite
        repeated = len(ids) - len(set(ids))
        counted = ((not_finite, "predictions are not finite"), (repeated, "samples were evaluated more than once"))
        doubts = [f"{count} of {len(ids)} {what}" for count, what in counted if count]
        if doubt := metrics_doubt(pl_module, {name: result["value"] for name, result in self.results.items()}, not_finite):
            doubts.append(doubt)
            tell(doubt)
        doubts += filter(None, [*(metric_info(metric, "doubt") for metric in self.metrics.values()), chained(results.clusters)])
        extractors = {_reported(name, metric): metric_info(metric, "provenance") for name, metric in self.metrics.items()}
        reference = self.task.reference_info(data, self.protocol)
        record = Record(
            node=self.out.stem if self.out else "",
            method=getattr(pl_module, "name", "") or type(pl_module).__name__.lower(),
            task=self.task.name,
            dataset=data.name,
            split=data.split,
            protocol=self.protocol.name,
            reason="; ".join(dict.fromkeys(doubts)) or None,
            **self._provenance(pl_module, data),
            protocol_sha256=self.protocol_sha256,
            reference=reference,
            metrics=self.results,
            by=self.protocol.by if results.of_groups else None,
            groups=results.of_groups,
            extractors={name: found for name, found in extractors.items() if found},
            n_samples=len(ids),
            fit_seconds=self._fit_seconds,
            seconds_per_sample=results.seconds / len(ids) if ids else None,
            peak_memory_bytes=results.memory,
            checkpoint=None if trainer.ckpt_path is None else (self.tested or TestedCheckpoint(trainer.ckpt_path)).entry(),
            device=device_name(pl_module.device, trainer.world_size),
        )
        record.conditions = conditions(record, self.task.conditions(data, self.protocol))
        if isinstance(pl_module, FromFiles):
            pl_module.mark(record)
        if self.out is not None:
            record.write(self.out)  # whatever the images' fate, the numbers are safe
        if self.keep is not None:
            self.keep.finish(record)
        if self.out is not None:
            report = Report(self.out)
            record.images, record.gallery = report.write_images(self._rows, self.task.prediction, self.task.gallery)
            record.per_sample, record.clusters = report.write_per_sample(results), self.task.shares
            record.write(self.out)
        print_table(record, self.out)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the training clock, or continue the checkpoint's, and reset the memory peak."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._fit_seconds = self._fit_seconds or 0.0
        self._started = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock, while the method is still on its device."""
        self._fit_seconds = (self._fit_seconds or 0.0) + now(pl_module.device) - self._started
        self._started = time.perf_counter()
        self._memory = max(gather(peak_memory(pl_module.device)))
        self._device = device_name(pl_module.device, trainer.world_size)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the record of the training, after its last checkpoint."""
        if self.out is None or not trainer.is_global_zero:
            return
        data, left = data_of(trainer), checkpoints_left(trainer)
        Record(
            node=self.out.stem,
            kind="fit",
            method=getattr(pl_module, "name", "") or type(pl_module).__name__.lower(),
            task="",
            dataset=data.name,
            split="train",
            protocol="",
            reason=broken_weights(pl_module),
            **self._provenance(pl_module, data),
            fit_seconds=self._fit_seconds,
            peak_memory_bytes=self._memory,
            checkpoint=left.get(self.checkpoint) or next(iter(left.values()), None),
            checkpoints=left,
            device=self._device,
        ).write(self.out)

    def _provenance(self, pl_module: L.LightningModule, data: FashionData) -> dict[str, Any]:
        """Return what the records of a test and of a fit have in common."""
        return {
            "recipe": self.recipe,
            "overlays": [*self.overlays, *variant(data)],
            "parents": self.parents,
            "seed": getattr(pl_module, "seed", None),
            "command": shlex.join(sys.argv),
            "parameters": parameters(pl_module),
            "weights": weights(pl_module),
            "data": data_info(data),
            "config_sha256": self.config_sha256,
            **self._code,
            "versions": versions(),
        }

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the samples of the previous validation."""
        self._validation.clear()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect the first validation samples."""
        if dataloader_idx == 0:
            self._validation.add(batch, self.task)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the method's results for them."""
        self._validation.log(trainer, pl_module, self.task)


def metric_info(metric: Metric, name: str) -> Any:  # noqa: ANN401  depends on the method called
    """Call a metric's method about its extractor, such as `doubt` or `provenance`; return None if it has no such method."""
    method = getattr(metric, name, None)
    return None if method is None else method()


def _reported(name: str, metric: Metric) -> str:
    extractor = getattr(metric, "extractor", None)
    return f"{name}[{extractor}]" if extractor else name
