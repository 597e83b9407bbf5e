"""A small training loop for the tiny checkpoints: averaged weights, a warm-up and cosine schedule, resumable."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

AnyModule = TypeVar("AnyModule", bound=nn.Module)
SAVE_EVERY = 250


def train(
    name: str,
    module: AnyModule,
    loss: Callable[[torch.Generator], Tensor],
    *,
    steps: int,
    learning_rate: float,
    state: Path,
    seed: int,
    average: float = 0.995,
) -> AnyModule:
    """Train `module` with AdamW and return it with exponentially averaged weights, in evaluation mode.

    Args:
        name: shown on the progress bar and used in the state's file name.
        module: module with the trainable parameters; `loss` uses it.
        loss: takes a generator that depends only on (seed, step), for all random numbers of the step.
        steps: total number of optimizer steps.
        learning_rate: peak of the schedule.
        state: folder for the state that a killed build resumes from.
        seed: seed of the build.
        average: decay of the averaged weights.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps + 1, pct_start=0.05)
    averaged = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True)
    state.mkdir(parents=True, exist_ok=True)
    path, done = state / f"{name}.pt", 0
    if path.is_file():
        saved = torch.load(path, weights_only=True)
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
            value = loss(torch.Generator().manual_seed(seed * 1_000_003 + step))
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


def pick(count: int, batch: int, generator: torch.Generator) -> Tensor:
    """Draw `batch` indices below `count`, (batch,) int64."""
    return torch.randint(count, (batch,), generator=generator)
