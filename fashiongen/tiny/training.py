"""A small training loop for the tiny checkpoints: averaged weights, a warm-up and cosine schedule, resumable."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

AnyModule = TypeVar("AnyModule", bound=nn.Module)
SAVE_EVERY = 250


@dataclass(frozen=True)
class Run:
    """What all trainings of one build share.

    Attributes:
        state: folder for the states that a killed build resumes from.
        seed: seed of the build.
        device: where networks and training images live.
        bfloat16: run the networks in bfloat16 (autocast); weights, averages and losses stay in float32.
    """

    state: Path
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bfloat16: bool = False


class Draws:
    """The random numbers of one training step, which depend only on (seed, step).

    They are drawn on the CPU and then moved, so that every device trains on the same numbers.
    """

    def __init__(self, seed: int, step: int, device: torch.device) -> None:
        """Start the numbers of a step."""
        self.generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        self.device = device

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw int64 numbers in [0, high) of the given shape."""
        return torch.randint(high, shape, generator=self.generator).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Draw numbers in [0, 1) of the given shape."""
        return torch.rand(shape, generator=self.generator).to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers of the given shape."""
        return torch.randn(shape, generator=self.generator).to(self.device)

    def mix(self, *choices: tuple[Tensor, float], otherwise: Tensor) -> Tensor:
        """Choose one of several tensors (B, ...) for each sample, each with its own probability."""
        drawn = self.uniform(len(otherwise), *[1] * (otherwise.dim() - 1))
        mixed, below = otherwise, sum(probability for _, probability in choices)
        for choice, probability in reversed(choices):
            mixed = torch.where(drawn < below, choice, mixed)
            below -= probability
        return mixed


def train(
    run: Run,
    name: str,
    module: AnyModule,
    loss: Callable[[Draws], Tensor],
    *,
    steps: int,
    learning_rate: float,
    average: float = 0.995,
) -> AnyModule:
    """Train `module` with AdamW and return it with exponentially averaged weights, in evaluation mode, on the run's device.

    Args:
        run: state folder, seed, device and precision.
        name: shown on the progress bar and used in the state's file name.
        module: module with the trainable parameters; `loss` uses it.
        loss: takes all random numbers of the step from its argument.
        steps: total number of optimizer steps.
        learning_rate: peak of the schedule.
        average: decay of the averaged weights.
    """
    module.to(run.device)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps + 1, pct_start=0.05)
    averaged = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True)
    run.state.mkdir(parents=True, exist_ok=True)
    path, done = run.state / f"{name.replace('/', '-')}.pt", 0
    if path.is_file():
        saved = torch.load(path, weights_only=True, map_location=run.device)
        module.load_state_dict(saved["module"])
        averaged.load_state_dict(saved["averaged"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        done = saved["done"]

    module.train()
    columns = (TextColumn(f"{name} {{task.fields[shown]}}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(name, total=steps, completed=done, shown="")
        for step in range(done, steps):
            torch.manual_seed(run.seed * 1_000_003 + step)  # of dropout: the same in a resumed run
            with torch.autocast(run.device.type, torch.bfloat16, enabled=run.bfloat16):
                value = loss(Draws(run.seed, step, run.device))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            averaged.update_parameters(module)
            progress.update(bar, advance=1, shown=f"loss {value.item():.4f}" if step % 10 == 0 else progress.tasks[0].fields["shown"])
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
                content = {
                    "module": module.state_dict(),
                    "averaged": averaged.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "done": step + 1,
                }
                torch.save(content, path.with_suffix(".tmp"))
                os.replace(path.with_suffix(".tmp"), path)
    module.load_state_dict(averaged.module.state_dict())
    return module.eval()
