"""Training with the real command line, measured: time, memory, floating-point operations and losses of single steps."""

from __future__ import annotations

import gc
import inspect
import math
import shutil
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import lightning.pytorch as L
import stand_ins
import torch
import yaml
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count

from fashiongen.cli.build import build
from fashiongen.cli.lightning import FashionCLI
from fashiongen.cli.messages import quiet
from fashiongen.cli.protocols import CommandLine
from gpu.work import ROOT, Work

RECIPES = ROOT / "recipes"
EPOCH = 2
"""Batches of an epoch: a new epoch must not start with every step, and rendering one large person takes four seconds of a core."""

SMALLEST_PAIRS = 240  # that the embedded world of tops and bottoms needs
SHARED_BYTES = 4e9
"""Shared memory that two batches of 32 in each of eight workers need at 1024x768, with a margin."""

Settings = dict[str, Any]


class MeasuredCLI(FashionCLI):
    """The real command line, with further callbacks and without checkpoints: at full size one holds 20 GB."""

    def __init__(self, line: CommandLine, callbacks: Sequence[Callback]) -> None:
        """Parse and run a command line with `callbacks`."""
        self.added = callbacks
        super().__init__(line)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:  # noqa: ANN401  as in Lightning
        """Exchange the callbacks."""
        trainer: Any = super().instantiate_trainer(**kwargs)
        trainer.callbacks = [*(callback for callback in trainer.callbacks if not isinstance(callback, Checkpoint)), *self.added]
        return trainer  # type: ignore[no-any-return]  # Any for its callbacks


def settings_of(recipe: str) -> Settings:
    """Read a recipe by its name, such as `igr` or `tiny/igr`."""
    settings: Settings = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8"))
    return settings


def accepts(class_path: str, name: str) -> bool:
    """Return whether a class's constructor, or a base's, has a parameter."""
    module, _, cls = class_path.rpartition(".")
    bases = getattr(import_module(module), cls).__mro__
    return any(name in inspect.signature(base).parameters for base in bases if "__init__" in vars(base))


def run_cli(command: str, configs: Sequence[str], keys: Settings, callbacks: Sequence[Callback] = ()) -> FashionCLI:
    """Run `fashiongen fit` or another command with recipes by name and further keys."""
    args = [arg for config in configs for arg in ("--config", str(RECIPES / f"{config}.yaml"))]
    with quiet():
        return MeasuredCLI(CommandLine.read([command, *args, *(f"--{key}={_text(value)}" for key, value in keys.items())]), callbacks)


def _text(value: object) -> str:
    return {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else str(value)


def step_keys(work: Work, recipe: str, batch: int) -> Settings:
    """Return what a few steps of a full recipe need besides the recipe: random weights, rendered data, no validation, one device.

    A rehearsal takes small networks and images.
    """
    settings = settings_of(recipe)
    model, data = settings["model"], settings["data"]
    keys: Settings = {"trainer.accelerator": "cpu" if work.device == "cpu" else "gpu", "trainer.devices": 1}
    keys |= {"trainer.logger": False, "trainer.limit_val_batches": 0, "trainer.num_sanity_val_steps": 0, "trainer.max_epochs": -1}
    keys |= {"trainer.enable_model_summary": False, "data.init_args.root": "wardrobe", "data.init_args.batch_size": batch}
    size, tall = ("small", [64, 48]) if work.rehearse else ("full", None)
    for name, path in stand_ins.replaced(model["init_args"], work.scratch / "weights", size, work.device).items():
        keys[f"model.init_args.{name}"] = path
    samples = EPOCH * (batch if work.rehearse else settings["data"]["init_args"]["batch_size"])  # smaller batches share the world
    if accepts(data["class_path"], "validation"):  # 85 % of the embedded world's people are for training, and 75 % of its pairs
        keys |= {"data.init_args.validation": 2, "data.init_args.people": 40 if work.rehearse else math.ceil((samples + 4) / 0.85)}
    else:
        keys |= {"data.init_args.people": SMALLEST_PAIRS if work.rehearse else max(SMALLEST_PAIRS, math.ceil(samples / 0.75) + 1)}
    if "cache_encodings" in model["init_args"]:  # as in a first epoch, in which encoders run
        keys |= {"model.init_args.cache_encodings": False}
    if "quality" in data["init_args"]:  # the share that it keeps decides how many pairs a step needs, and not what the step costs
        decisions = {"keep": 1.0, "decisions": str(work.folder / "kept.csv")}
        keys |= {f"data.init_args.quality.init_args.{name}": value for name, value in decisions.items()}
    if shutil.disk_usage("/dev/shm").free < SHARED_BYTES:  # through which worker processes pass batches
        keys |= {"data.init_args.num_workers": 0}
    if work.rehearse:
        square = data["init_args"]["size"][0] == data["init_args"]["size"][1]
        keys |= {"data.init_args.size": [64, 64] if square else tall, "data.init_args.num_workers": 0}
        keys |= {"model.init_args.image_size": 128} if model["init_args"].get("image_size", 0) > 128 else {}
    return keys


def parent_keys(work: Work, recipe: str) -> Settings:
    """Write a checkpoint with initial weights for each parent of a recipe, in half precision, and return the keys that name them."""
    found: Settings = {}
    for role, parent in settings_of(recipe).get("parents", {}).items():
        file = work.folder / f"{role}.ckpt"
        own = {key: value for key, value in step_keys(work, parent, 2).items() if not key.startswith("trainer.")}
        args = ["--config", str(RECIPES / f"{parent}.yaml"), *(f"--{key}={_text(value)}" for key, value in own.items())]
        method, _ = build([*args, "--data.init_args.root=wardrobe"], None)
        state = {key: value.half() if value.is_floating_point() else value for key, value in method.state_dict().items()}
        torch.save({"state_dict": state}, file)
        found[f"parents.{role}"] = str(file)
    return found


class Meter(Callback):
    """Measures steps: `warm` unmeasured, `timed` measured and, if asked, one more whose floating-point operations are counted.

    Operations are counted without gradient checkpointing, whose repeated forward pass is no work of the model: on one sample then, since
    all activations of a batch would not fit. Nor is it work of the model that attention's backward pass computes its scores again.

    Attributes:
        seconds: of each timed step: forward, backward and optimizer, the batch being on the device.
        whole: seconds from the end of the step before to the end of each timed one, loading and transfer included.
        losses: of all but the counted step.
        resident: bytes allocated on the GPU after the last timed step: weights, gradients and the optimizer's states.
        peak: bytes allocated at most up to then.
        flops: operations a sample, of forward and backward.
        parameters: the numbers of trained and of frozen ones.
    """

    def __init__(self, warm: int, timed: int, count: bool = False, work: Work | None = None) -> None:
        """Measure that many steps; `work` notes what was measured at once, since a check may be stopped before it returns."""
        self.work = work
        self.warm, self.timed, self.count = warm, timed, count
        self.seconds: list[float] = []
        self.whole: list[float] = []
        self.losses: list[float] = []
        self.resident = self.peak = 0
        self.flops: float | None = None
        self.parameters: dict[str, int] = {}
        self._counter: FlopCounterMode | None = None

    @property
    def steps(self) -> int:
        """How many steps to run."""
        return self.warm + self.timed + self.count

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the first step."""
        self._ended = time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Start the clock, or the count."""
        _wait(pl_module.device)
        if self.count and len(self.losses) == self.warm + self.timed:
            checkpointed = [module for module in pl_module.modules() if getattr(module, "is_gradient_checkpointing", False)]
            for module in checkpointed:
                module.disable_gradient_checkpointing()  # type: ignore[operator]  # diffusers' models have it
            if checkpointed:
                vars(batch).update(vars(batch.select([0])))
            self._samples = len(batch)
            self._counter = FlopCounterMode(display=False, custom_mapping=FOUR_PRODUCTS)
            self._counter.__enter__()
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Stop both."""
        _wait(pl_module.device)
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self.flops = self._counter.get_total_flops() / self._samples
            self._counter = None
            return
        ended = time.perf_counter()
        if len(self.losses) >= self.warm:
            self.seconds.append(ended - self._started)
            self.whole.append(ended - self._ended)
        self._ended = ended
        logged = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("train/")}
        self.losses.append(logged.get("train/loss", sum(logged.values())))
        if len(self.losses) == self.warm + self.timed:
            self.parameters = count_parameters(pl_module)
            if pl_module.device.type == "cuda":
                self.peak, self.resident = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
            if self.work is not None:
                self.work.note(**self.measured())

    def measured(self) -> dict[str, Any]:
        """Return what is known so far, for a record."""
        return {
            "parameters": self.parameters,
            "losses": self.losses,
            "seconds": self.seconds,
            "seconds_with_loading": self.whole,
            "peak_bytes": self.peak,
            "resident_bytes": self.resident,
        }


def _four_of_five(grad: Any, query: Any, key: Any, value: Any, *others: Any, **options: Any) -> int:  # noqa: ANN401  shapes, as torch passes them
    """Return the operations of attention's backward pass without the scores that it computes again: four of five equal products."""
    return int(sdpa_backward_flop_count(grad, query, key, value)) * 4 // 5


FOUR_PRODUCTS = {op: _four_of_five for op in flop_registry if "scaled_dot_product" in str(op) and "backward" in str(op)}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget() -> None:
    """Give the last model's memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def count_parameters(module: torch.nn.Module) -> dict[str, int]:
    """Return the numbers of trained and of frozen parameters."""
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return {"trained": trained, "frozen": sum(parameter.numel() for parameter in module.parameters()) - trained}
