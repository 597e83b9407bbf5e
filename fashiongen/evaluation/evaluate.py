"""The callback that judges a method: metrics, intervals, images and the record of a test."""

import errno
import json
import math
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torchmetrics import Metric

from fashiongen import tasks
from fashiongen.batches import Batch
from fashiongen.errors import UserError
from fashiongen.evaluation.images import Shown, as_written, checked, grid, image_name, shown, write_png
from fashiongen.evaluation.provenance import checkpoint, device_name, now, parameters, peak_memory, versions
from fashiongen.evaluation.ranking import Catalogue, encode_catalogue
from fashiongen.evaluation.reference import Reference
from fashiongen.metrics.base import PerSample, SetMetric
from fashiongen.metrics.distribution import shared_features
from fashiongen.records import MetricEntry, Record, source_sha256, write_atomically

# For each task that makes images the batch's fields that hold the true image and its foreground.
TRUTH = {"vtoff": ("garment", "garment_mask")}
RETRIEVAL = "retrieval"
BETTER = {True: "higher", False: "lower", None: ""}
FIT_SECONDS = "fit_seconds"

RESAMPLES, RESAMPLES_AT_ONCE = 1000, 100


def bootstrap_interval(values: NDArray[np.float64], seed: int = 0) -> list[float] | None:
    """Return the 95 % percentile interval of the mean of `values` (N,) over resampled samples; None where it says nothing."""
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    generator, count = np.random.default_rng(seed), len(values)
    draws = [values[generator.integers(count, size=(RESAMPLES_AT_ONCE, count))].mean(axis=1) for _ in range(RESAMPLES // RESAMPLES_AT_ONCE)]
    low, high = np.quantile(np.concatenate(draws), [0.025, 0.975])
    return [float(low), float(high)]


class Evaluate(Callback):
    """Judges what `test_step` returns: metrics, intervals, images, and a record of it all; shows images in validation.

    The metrics are no part of the method: neither its checkpoint nor its parameters know of them.

    Attributes:
        results: after a test the metrics by reported name, each `{value, higher_is_better, ci95}`.
        recipe: name of the recipe, for the record; the command line sets it and the following four.
        overlays: names of the further config files.
        parents: the checkpoints of earlier stages, by role.
        config_sha256: hash of the resolved config.
        protocol_sha256: hash of how the protocol judges.
    """

    def __init__(
        self,
        task: str = "vtoff",
        protocol: str = "",
        metrics: dict[str, Metric] | None = None,
        size: tuple[int, int] | None = None,
        reference: Reference | None = None,
        out: str | None = None,
        images: int = 16,
        validation_images: int = 8,
    ) -> None:
        """Say what to judge by.

        Args:
            task: name of the task, see `fashiongen.tasks.TASKS`.
            protocol: name of the protocol that the metrics follow, for the record.
            metrics: by name; a metric with an extractor is reported as `name[extractor]`.
            size: the height and width that the protocol judges at; data of another size are refused. By default any.
            reference: the true images for the metrics of sets, where they are another dataset's; metrics of pairs are then refused.
            out: JSON file of the record of a test, beside which go the values per sample, the images and a grid of them; or of a fit.
            images: how many predictions are written as PNG, the first in the order of ids.
            validation_images: how many validation samples are shown in TensorBoard.
        """
        self.task = task
        self.protocol = protocol
        self.metrics = metrics or {}
        self.size = None if size is None else tuple(size)
        self.reference = reference
        self.out = None if out is None else Path(out).expanduser()
        self.images = images
        self.validation_images = validation_images
        self.recipe: str | None = None
        self.overlays: list[str] = []
        self.parents: dict[str, str] = {}
        self.config_sha256: str | None = None
        self.protocol_sha256: str | None = None
        self.results: dict[str, MetricEntry] = {}
        self._ids: list[str] = []
        self._catalogue: Catalogue | None = None
        self._shown: list[Shown] = []
        self._not_finite = 0
        self._seconds = 0.0
        self._memory = 0
        self._device: str | None = None
        self._started = 0.0
        self._validation: list[Batch] = []
        self._fit_seconds: float | None = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep in the checkpoint how long its training took, so that a resumed one and a test can tell."""
        if trainer.training and self._fit_seconds is not None:
            checkpoint[FIT_SECONDS] = self._fit_seconds + time.perf_counter() - self._started

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over how long the training of the checkpoint took."""
        self._fit_seconds = checkpoint.get(FIT_SECONDS)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse, before any work, what cannot end well.

        Raises:
            UserError: if the task is unknown or not one of the method's, the data lack what the method needs or what it is judged by, are
                of another size than the protocol's, a metric's weights are missing, or the record cannot be written.
        """
        name = type(pl_module).__name__
        if self.task not in tasks.TASKS:
            raise UserError(f"evaluate.task={self.task}: unknown task; choose one of {', '.join(sorted(tasks.TASKS))}")
        able = tasks.supported(pl_module)
        if self.task not in able:
            raise UserError(f"evaluate.task={self.task}: {name} cannot do it; it can do: {', '.join(able) or 'no task'}")
        data = trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise UserError("evaluate: the Trainer has no data module; pass datamodule=..., which names the dataset in the record")
        needs = set(getattr(pl_module, "needs", ()))
        if lacking := sorted(needs - set(data.offers)):
            raise UserError(f"{name} needs {', '.join(lacking)}, which {data.name} does not offer here (it offers {_listed(data.offers)})")
        if stage in ("fit", "test") and self.out is not None and trainer.is_global_zero:
            _check_writable(self.out)
        if stage == "test":
            self._check_truth(data)
            for metric in self.metrics.values():
                # Metrics load their networks late; here is the time to learn that weights are missing.
                if prepare := getattr(metric, "prepare", None):
                    prepare()

    def _check_truth(self, data: Any) -> None:  # noqa: ANN401  a data module with a name and offers
        if self.task == RETRIEVAL:
            if not hasattr(data, "catalogue_dataloader"):
                raise UserError(f"{self.task} needs a catalogue to rank, which {data.name} has not; use a dataset of tops and bottoms")
            return
        truth = TRUTH[self.task][0]
        for key, module in (("data", data), ("evaluate.reference.data", self.reference and self.reference.data)):
            size = tuple(getattr(module, "size", None) or self.size or ())
            if self.size is not None and size != self.size:
                wanted, found = (list(side) for side in (self.size, size))
                raise UserError(f"protocol {self.protocol} judges at {wanted}, {key}.init_args.size is {found}: set --{key}.init_args.size")
        if self.reference is None:
            if truth not in data.offers:
                raise UserError(
                    f"{self.task} is judged by the true {truth}, which {data.name} does not offer here; use `predict` instead, "
                    "or a protocol whose evaluate.reference is another dataset's"
                )
            return
        if paired := [key for key, metric in self.metrics.items() if getattr(metric, "pairs", True)]:
            judged = f"evaluate.metrics: {', '.join(paired)}: judge each image by its own truth"
            raise UserError(f"{judged}, and evaluate.reference is only a set of images: leave one or the other out")
        self.reference.setup()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the metrics to the module's device (it is not there yet in `setup`), start anew and show them the reference."""
        for metric in self.metrics.values():
            metric.to(pl_module.device)
            metric.reset()
        self.results, self._ids, self._shown, self._not_finite, self._seconds, self._memory = {}, [], [], 0, 0.0, 0
        self._catalogue = None
        if self.task == RETRIEVAL:
            self._catalogue = encode_catalogue(trainer, pl_module)
        elif self.reference is not None:
            sets = [metric for metric in self.metrics.values() if isinstance(metric, SetMetric)]
            with shared_features():
                self.reference.fill(sets, trainer, pl_module.device)

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Start the clock, and measure memory anew: what the metrics took is not the method's."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._started = now(pl_module.device)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop the clock and update the metrics with a prediction (B, 3, H, W) in [-1, 1] and the batch's truth."""
        self._seconds += now(pl_module.device) - self._started
        self._memory = max(self._memory, peak_memory(pl_module.device))
        self._ids += batch.ids
        if self._catalogue is not None:
            ranked = self._catalogue.rank(pl_module, outputs, batch)
            self._not_finite += int((~ranked.scores.isfinite().all(dim=1)).sum())
            for metric in self.metrics.values():
                metric.update(ranked)
        else:
            self._judge_images(pl_module, outputs, batch)

    def _judge_images(self, pl_module: L.LightningModule, outputs: object, batch: Batch) -> None:
        prediction = checked(pl_module, outputs, batch)
        truth, foreground = (getattr(batch, field) for field in TRUTH[self.task])
        # With a reference there may be truths, but they are not what the protocol judges by.
        written, target = as_written(prediction), None if self.reference is not None else truth.float() / 255.0
        with shared_features():
            for metric in self.metrics.values():
                metric.update(written, target, foreground)
        self._not_finite += int((~prediction.isfinite().flatten(1).all(dim=1)).sum())
        kept = sorted([*(sample.id for sample in self._shown), *batch.ids])[: self.images]
        fresh = shown(batch, prediction, truth, [index for index, id_ in enumerate(batch.ids) if id_ in kept])
        self._shown = sorted([*(sample for sample in self._shown if sample.id in kept), *fresh], key=lambda sample: sample.id)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reduce the metrics once over all processes; the first process prints, logs and writes."""
        reported = {_reported(name, metric): metric for name, metric in self.metrics.items()}
        mine: dict[str, Any] = {
            "ids": self._ids,
            "values": {name: metric.values().double().tolist() for name, metric in reported.items() if isinstance(metric, PerSample)},
            "undefined": {name: metric.n_undefined for name, metric in reported.items() if isinstance(metric, PerSample)},
            "not_finite": self._not_finite,
            "seconds": self._seconds,
            "memory": self._memory,
        }
        parts = _gathered(mine)
        ids = [id_ for part in parts for id_ in part["ids"]]
        order = np.argsort(np.array(ids, dtype=object), kind="stable")
        per_sample = {name: np.concatenate([part["values"][name] for part in parts])[order] for name in mine["values"]}
        for name, metric in reported.items():
            interval = None
            if name in per_sample:
                values, undefined = per_sample[name], sum(part["undefined"][name] for part in parts)
                # Samples without a value are left out of the mean; any other NaN is a broken prediction and left in.
                interval = bootstrap_interval(values[~np.isnan(values)] if np.isnan(values).sum() == undefined else values)
            self.results[name] = {"value": float(metric.compute()), "higher_is_better": metric.higher_is_better, "ci95": interval}
        first = sorted(ids)[: self.images]
        samples = [sample for part in _gathered([sample for sample in self._shown if sample.id in first]) for sample in part]
        self._shown = sorted(samples, key=lambda sample: sample.id)
        if trainer.is_global_zero:
            self._report(trainer, [ids[index] for index in order], per_sample, parts, pl_module)

    def _report(
        self,
        trainer: L.Trainer,
        ids: list[str],
        per_sample: dict[str, NDArray[np.float64]],
        parts: list[dict[str, Any]],
        pl_module: L.LightningModule,
    ) -> None:
        for logger in trainer.loggers:
            logged = {f"test/{name}": value for name, result in self.results.items() if (value := result["value"]) is not None}
            logger.log_metrics(logged, step=trainer.global_step)
            if isinstance(logger, TensorBoardLogger) and self._shown:
                logger.experiment.add_image("test/images", grid(self._shown), trainer.global_step)
        data = trainer.datamodule  # type: ignore[attr-defined]
        not_finite, repeated = sum(part["not_finite"] for part in parts), len(ids) - len(set(ids))
        counted = ((not_finite, "predictions are not finite"), (repeated, "samples were judged more than once"))
        doubts = [f"{count} of {len(ids)} {what}" for count, what in counted if count]
        doubts += [doubt for metric in self.metrics.values() if (doubt := _told(metric, "doubt"))]
        extractors = {_reported(name, metric): _told(metric, "provenance") for name, metric in self.metrics.items()}
        record = Record(
            node=self.out.stem if self.out else "",
            method=getattr(pl_module, "name", "") or type(pl_module).__name__.lower(),
            task=self.task,
            dataset=data.name,
            split=data.split,
            protocol=self.protocol,
            reason="; ".join(dict.fromkeys(doubts)) or None,
            **self._provenance(pl_module, data),
            protocol_sha256=self.protocol_sha256,
            reference=self._described(data),
            metrics=self.results,
            extractors={name: found for name, found in extractors.items() if found},
            n_samples=len(ids),
            fit_seconds=self._fit_seconds,
            seconds_per_sample=sum(part["seconds"] for part in parts) / len(ids) if ids else None,
            peak_memory_bytes=max(part["memory"] for part in parts),
            checkpoint=checkpoint(trainer.ckpt_path),
            device=device_name(pl_module.device, trainer.world_size),
        )
        if self.out is not None:
            record.images = self._write_images(self.out)
            record.per_sample = self._write_per_sample(self.out, ids, per_sample)
            record.write(self.out)
        _print_table(record, None if self.out is None else str(self.out))

    def _described(self, data: Any) -> dict[str, str]:  # noqa: ANN401  a data module with a name, a split and a fingerprint
        if self.task == RETRIEVAL:
            size = str(len(self._catalogue or ()))
            return {"dataset": data.name, "split": data.split, "field": "bottom", "catalogue": size, "fingerprint": data.fingerprint()}
        if self.reference is None:
            split, field, found, fingerprint = data.split, TRUTH[self.task][0], data, data.fingerprint()
        else:
            split, field, found = self.reference.split, self.reference.field, self.reference.data
            fingerprint = self.reference.images.fingerprint()
        return {"dataset": found.name, "split": split, "field": field, "fingerprint": fingerprint, **_size(found)}

    def _write_images(self, out: Path) -> str | None:
        """Write the chosen predictions to a new folder that takes the place of an old one, and the grid."""
        if not self._shown:
            return None
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = out.with_name(f"{out.stem}.images")
        part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{folder.name}."))
        try:
            for sample in self._shown:
                write_png(part / image_name(sample.id), sample.prediction)
            part.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        write_png(out.with_name(f"{out.stem}.grid.png"), grid(self._shown))
        return folder.name

    def _write_per_sample(self, out: Path, ids: list[str], per_sample: dict[str, NDArray[np.float64]]) -> str:
        path = out.with_name(f"{out.stem}.per_sample.jsonl")
        rows = [{"id": id_, **{name: _number(values[index]) for name, values in per_sample.items()}} for index, id_ in enumerate(ids)]
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return path.name

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the training, or let it go on where that of the checkpoint stopped, and measure memory anew."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._fit_seconds = self._fit_seconds or 0.0
        self._started = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock, while the method is still on its device."""
        self._fit_seconds = (self._fit_seconds or 0.0) + now(pl_module.device) - self._started
        self._started = time.perf_counter()
        self._memory = max(_gathered(peak_memory(pl_module.device)))
        self._device = device_name(pl_module.device, trainer.world_size)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the record of the training; by now its last checkpoint is written."""
        if self.out is None or not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        callback = trainer.checkpoint_callback
        written = getattr(callback, "last_model_path", "") or getattr(callback, "best_model_path", "")
        Record(
            node=self.out.stem,
            kind="fit",
            method=getattr(pl_module, "name", "") or type(pl_module).__name__.lower(),
            task="",
            dataset=data.name,
            split="train",
            protocol="",
            **self._provenance(pl_module, data),
            fit_seconds=self._fit_seconds,
            peak_memory_bytes=self._memory,
            checkpoint=checkpoint(written) if written else None,
            device=self._device,
        ).write(self.out)

    def _provenance(self, pl_module: L.LightningModule, data: Any) -> dict[str, Any]:  # noqa: ANN401  a data module with a fingerprint
        """Return what the records of a test and of a fit tell alike."""
        return {
            "recipe": self.recipe,
            "overlays": self.overlays,
            "parents": self.parents,
            "seed": getattr(pl_module, "seed", None),
            "command": shlex.join(sys.argv),
            "parameters": parameters(pl_module),
            "data": {"fingerprint": data.fingerprint(), **_size(data), **_masks(data), **_world(data)},
            "config_sha256": self.config_sha256,
            # The benchmark only starts what gives the numbers; a change in it does not change them.
            "source_sha256": source_sha256(leave_out=("benchmark",)),
            "versions": versions(),
        }

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the samples of the validation before."""
        self._validation = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Remember the first validation samples."""
        wanted = self.validation_images - sum(len(seen) for seen in self._validation)
        if self.task in TRUTH and wanted > 0 and dataloader_idx == 0 and isinstance(batch, tasks.TASKS[self.task].batch):
            self._validation.append(batch.select(range(min(wanted, len(batch)))))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Run the verb on the remembered samples and show them in TensorBoard, without a trace in the training's random state.

        All processes run theirs, in case the verb takes them all (sharded weights); the first one's are shown.
        """
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if trainer.sanity_checking or not loggers or not self._validation:
            return
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        samples = []
        with torch.random.fork_rng(devices), torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in self._validation:
                truth = getattr(batch, TRUTH[self.task][0])
                prediction = checked(pl_module, tasks.run(pl_module, batch), batch)
                samples += shown(batch, prediction, truth, range(len(batch)))
        self._validation = []
        if trainer.is_global_zero:
            for logger in loggers:
                logger.experiment.add_image("val/images", grid(samples), trainer.global_step)


def _check_writable(out: Path) -> None:
    """Refuse a record whose file, or one of those that go beside it, could not be written; leaves nothing but its folder."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
        for file in (out, out.with_name(f"{out.stem}.per_sample.jsonl"), out.with_name(f"{out.stem}.grid.png")):
            if file.is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{file} is a folder")
        images = out.with_name(f"{out.stem}.images")
        if images.exists() and not images.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{images} is no folder")
    except OSError as error:
        raise UserError(f"evaluate.out: cannot write {out}: {error.strerror}; choose another --evaluate.out") from error


def _reported(name: str, metric: Metric) -> str:
    extractor = getattr(metric, "extractor", None)
    return f"{name}[{extractor}]" if extractor else name


def _told(metric: Metric, what: str) -> Any:  # noqa: ANN401  what a metric tells of its extractor, None where it has none
    tell = getattr(metric, what, None)
    return tell() if tell is not None else None


def _size(data: object) -> dict[str, str]:
    """Return the size of a data module's images for the record, where it has one."""
    size = getattr(data, "size", None)
    return {} if size is None else {"size": f"{size[0]}x{size[1]}"}


def _masks(data: Any) -> dict[str, str]:  # noqa: ANN401  a data module with a split
    """Return where the tested masks come from, for the record: results with a dataset's own masks and with made ones differ."""
    origins = data.describe().get("masks", {}).get(data.split) if hasattr(data, "describe") else None
    return {"masks": ", ".join(origins)} if origins else {}


def _world(data: object) -> dict[str, str]:
    """Return for the record that the data are the embedded world's, which bear the name of a real dataset for its layout alone."""
    return {"world": "wardrobe"} if getattr(data, "embedded", False) else {}


def _gathered(mine: Any) -> list[Any]:  # noqa: ANN401  any picklable object
    """Return every process's object, in the order of their ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return parts


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _print_table(record: Record, out: str | None) -> None:
    title = f"{record.method}: {record.task} on {record.dataset} ({record.split}), {record.n_samples} samples"
    table = Table(title=title, caption=out)
    for heading in ("metric", "better", "value", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name, result in record.metrics.items():
        interval = "" if result["ci95"] is None else "{:.4f} to {:.4f}".format(*result["ci95"])
        # Rich takes square brackets for markup.
        table.add_row(name.replace("[", r"\["), BETTER[result["higher_is_better"]], f"{result['value']:.4f}", interval)
    Console().print(table)
    if record.reason:
        Console().print(record.reason)
