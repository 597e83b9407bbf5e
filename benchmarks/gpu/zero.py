"""ZeRO-2, with and without offloading, on one GPU: the losses that its bfloat16 weights should give, and memory beside ZeRO's formula.

On an H100 the losses of ZeRO-2 were up to 8.2 % off those of plain `bf16-mixed` within four steps. That is no test of DeepSpeed: it keeps
the weights themselves in bfloat16, whose steps are larger than most of Adam's at this learning rate, and plain training keeps them in
float32. So both are compared with `rounded`, plain training whose weights and gradients are rounded as DeepSpeed's are.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback

from gpu.training import Meter, count_parameters, forget, run_cli, step_keys
from gpu.work import ROOT, CannotRun, CheckFailed, Work

RECIPE = "igr"
BATCH, STEPS = 2, 4
TOLERANCE = 0.02
"""Of a loss, relatively: the layers that autocast runs in float32, such as norms, run in bfloat16 under DeepSpeed."""

NEEDED = ("deepspeed", "hjson", "einops", "msgpack", "psutil", "pydantic", "tqdm")
OFFLOADING = ("cpuinfo",)
"""What DeepSpeed imports, and what its Adam on the CPU imports besides."""

GPUS = (1, 4, 8)
CPU_STRATEGY = "cpu_deepspeed.CPUDeepSpeedStrategy"  # of the tests: Lightning supports DeepSpeed with CUDA alone


class Rounded(Callback):
    """Rounds trained weights to bfloat16 for the forward and backward pass, and gradients after it; Adam updates float32 weights."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Keep the float32 weights, and round those that the model uses."""
        self.kept = {parameter: parameter.detach().clone() for parameter in pl_module.parameters() if parameter.requires_grad}
        with torch.no_grad():
            for parameter in self.kept:
                parameter.copy_(parameter.bfloat16())

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Put the float32 weights back."""
        with torch.no_grad():
            for parameter, weight in self.kept.items():
                parameter.copy_(weight)
                if parameter.grad is not None:
                    parameter.grad.copy_(parameter.grad.bfloat16())
        self.kept = {}


def formula(trained: int, frozen: int, way: str, gpus: int) -> float:
    """Return the bytes of weights, gradients and Adam's states on each of `gpus` GPUs.

    Plain `bf16-mixed` holds all in float32: 4 + 4 + 8 bytes a trained parameter and 4 a frozen one. DeepSpeed holds weights and gradients
    in bfloat16, and float32 copies of the weights with Adam's two moments, 12 bytes; stage 2 shards all but the bfloat16 weights:
    2 + (2 + 12) / N (Rajbhandari et al., arXiv 1910.02054, Figure 1). Offloading keeps the 12, and the gradients after the backward pass,
    in the CPU's memory.

    >>> [formula(10, 0, way, 1) for way in ("plain", "zero2", "zero2-offload")]
    [160.0, 160.0, 20.0]
    """
    if way in ("plain", "rounded"):
        return 16.0 * trained + 4.0 * frozen
    return 2.0 * (trained + frozen) + (0.0 if way == "zero2-offload" else 14.0 * trained / gpus)


def _on_cpu(way: str) -> dict[str, Any]:
    """Return the keys of a rehearsal: the tests' strategy, and for offloading torch's AdamW, as DeepSpeed's takes a minute to compile."""
    sys.path.append(str(ROOT / "tests"))
    keys = {"trainer.strategy": CPU_STRATEGY, "trainer.strategy.init_args.process_group_backend": "gloo"}
    if way != "zero2-offload":
        return keys
    zero = {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    config = {"zero_optimization": zero, "zero_force_ds_cpu_optimizer": False, "zero_allow_untested_optimizer": True}
    return keys | {"trainer.strategy.init_args.config": json.dumps(config), "model.init_args.optimizer": "torch.optim.AdamW"}


def run(work: Work, way: str) -> None:
    """Train plainly, with rounded weights, and with the overlay `way`, from the same weights on the same samples; compare the last two."""
    needed = (*NEEDED, *(OFFLOADING if way == "zero2-offload" and not work.rehearse else ()))
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise CannotRun(f"not installed here: {', '.join(missing)}")
    if way == "zero2-offload" and not work.rehearse and shutil.which("ninja") is None:
        raise CannotRun("no ninja on the PATH, which compiles DeepSpeed's Adam")
    losses: dict[str, list[float]] = {}
    steps = 2 if work.rehearse else STEPS
    for name in (*(("plain",) if way == "zero2" else ()), "rounded", way):
        overlays, keys = ([f"overlays/{name}"] if name == way else []), step_keys(work, RECIPE, BATCH)
        keys |= {"trainer.max_steps": steps, "trainer.precision": "bf16-mixed", "data.init_args.num_workers": 0}
        if name == way and work.device == "cpu":
            keys |= _on_cpu(name)
        meter = Meter(1, steps - 1)
        model = run_cli("fit", [RECIPE, *overlays], keys, [*([Rounded()] if name == "rounded" else []), meter]).model
        sizes, losses[name] = count_parameters(model), meter.losses
        del model
        forget()
        work.row(
            recipe=RECIPE,
            way=name,
            batch=BATCH,
            **{
                "trained, M": sizes["trained"] / 1e6,
                "frozen, M": sizes["frozen"] / 1e6,
                "step, s": sorted(meter.seconds)[len(meter.seconds) // 2],
                "resident, GB": meter.resident / 1e9,
                "peak, GB": meter.peak / 1e9,
                **{f"formula, {count} GPU, GB": formula(**sizes, way=name, gpus=count) / 1e9 for count in GPUS},
                "losses": ", ".join(f"{loss:.4f}" for loss in meter.losses),
            },
        )
    off = {name: _largest_difference(values, losses[way]) for name, values in losses.items() if name != way}
    work.note(losses=losses, largest_relative_difference=off, tolerance=TOLERANCE)
    if not off["rounded"] <= TOLERANCE:
        raise CheckFailed(
            f"{way}'s losses differ from those of rounded weights by up to {off['rounded']:.1%}, more than {TOLERANCE:.0%}: {losses}"
        )


def _largest_difference(first: list[float], second: list[float]) -> float:
    """Return the largest difference of two lists of losses, relative to the first."""
    one, other = torch.tensor(first), torch.tensor(second)
    return float(((other - one) / one).abs().max())
