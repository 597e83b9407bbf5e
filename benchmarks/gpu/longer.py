"""Tiny recipes trained ten times longer than they ship, then tested, with their learning curves."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback

from gpu.training import SMALLEST_PAIRS, Settings, accepts, forget, run_cli, settings_of
from gpu.work import Work

TIMES = 10
POINTS = 200
"""Points of a learning curve at most, besides those of validations."""

LENGTHS = ("total_steps", "T_max", "step_size")
"""Settings of learning-rate schedulers that count steps."""


class Curve(Callback):
    """Keeps what a training logs: losses in even distances, and all of each validation."""

    def __init__(self, work: Work) -> None:
        """Keep it in the record of `work`, as it comes."""
        self.work = work
        self.points: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Keep the losses at every n-th step."""
        steps = int(trainer.estimated_stepping_batches)
        if trainer.global_step % max(1, steps // POINTS) == 0:
            self._keep(trainer, "train/")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the validation's values, in the file too."""
        self._keep(trainer, "val/")
        self.work.note(curve=self.points)

    def _keep(self, trainer: L.Trainer, prefix: str) -> None:
        values = {key: round(float(value), 6) for key, value in trainer.callback_metrics.items() if key.startswith(prefix)}
        self.points.append({"step": trainer.global_step, **values})


def longer(settings: Settings) -> Settings:
    """Return the keys that make a recipe's training `TIMES` times as long, its learning rate's schedule with it.

    >>> longer({"model": {"init_args": {}}, "trainer": {"max_steps": 450}})
    {'trainer.max_steps': 4500}
    """
    scheduler = settings["model"]["init_args"].get("lr_scheduler", {}).get("init_args", {})
    keys = {f"model.init_args.lr_scheduler.init_args.{name}": TIMES * scheduler[name] for name in LENGTHS if name in scheduler}
    lengths = {name: settings["trainer"][name] for name in ("max_steps", "max_epochs") if name in settings["trainer"]}
    return keys | {f"trainer.{name}": TIMES * length for name, length in lengths.items()}


def run(work: Work, recipe: str) -> None:
    """Train the recipe's parents as they are, the recipe itself ten times longer, and test it by its own protocol."""
    settings = settings_of(recipe)
    parents = {f"parents.{role}": str(_train(work, f"tiny/{parent}", {}, None)) for role, parent in settings.get("parents", {}).items()}
    started = time.monotonic()
    curve = Curve(work)
    checkpoint = _train(work, recipe, longer(settings) | parents, curve)
    trained = time.monotonic() - started
    work.note(curve=curve.points, fit_seconds=trained)
    forget()
    out = work.folder / "test.json"
    run_cli("test", _configs(work, recipe), _keys(work, recipe) | {"ckpt_path": checkpoint, "evaluate.out": out})
    metrics = json.loads(out.read_text())["metrics"]
    work.note(metrics=metrics)
    validated = [point for point in curve.points if any(key.startswith("val/") for key in point)]
    work.row(
        recipe=recipe,
        steps=curve.points[-1]["step"],
        **{
            "trained for, s": trained,
            "first validation": _values(validated[0]) if validated else None,
            "last validation": _values(validated[-1]) if validated else None,
            "test": ", ".join(f"{name} {metric['value']:.4g}" for name, metric in metrics.items() if metric["value"] is not None),
        },
    )


def _train(work: Work, recipe: str, keys: Settings, curve: Curve | None) -> Path:
    """Train a recipe and return its last checkpoint."""
    if work.rehearse:  # as short as the overlay `smoke` says
        keys = {key: value for key, value in keys.items() if key.startswith("parents.")}
    cli = run_cli("fit", _configs(work, recipe), _keys(work, recipe) | keys, [] if curve is None else [curve])
    file = work.folder / f"{recipe.replace('/', '--')}.ckpt"
    cli.trainer.save_checkpoint(file)
    forget()
    return file


def _configs(work: Work, recipe: str) -> list[str]:
    return [recipe, "overlays/smoke"] if work.rehearse else [recipe]


def _keys(work: Work, recipe: str) -> Settings:
    keys: Settings = {"trainer.accelerator": "cpu" if work.device == "cpu" else "gpu", "trainer.devices": 1, "trainer.logger": False}
    if work.rehearse:
        settings = settings_of(recipe)
        class_path = settings["data"]["class_path"]
        keys |= {"data.init_args.people": 40, "data.init_args.validation": 4} if accepts(class_path, "validation") else {}
        keys |= {} if accepts(class_path, "validation") else {"data.init_args.people": SMALLEST_PAIRS}
        keys |= {"data.init_args.batch_size": 4, "data.init_args.eval_batch_size": 8}
        keys |= {"model.init_args.steps": 2} if "steps" in settings["model"]["init_args"] else {}
    return keys


def _values(point: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in point.items() if key != "step")
