"""ZeRO-2, with and without offloading, on one GPU against plain training: the same losses, and memory beside ZeRO's formula."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from typing import Any

import torch

from gpu.training import Meter, count_parameters, forget, run_cli, step_keys
from gpu.work import ROOT, CannotRun, CheckFailed, Work

RECIPE = "igr"
BATCH, STEPS = 2, 4
TOLERANCE = 0.02
"""Of a loss, relatively: bfloat16 has 8 bits, and DeepSpeed keeps the weights themselves in it."""

NEEDED = ("deepspeed", "hjson", "einops", "msgpack", "psutil", "pydantic", "tqdm")
OFFLOADING = ("cpuinfo",)
"""What DeepSpeed imports, and what its Adam on the CPU imports besides."""

GPUS = (1, 4, 8)
CPU_STRATEGY = "cpu_deepspeed.CPUDeepSpeedStrategy"  # of the tests: Lightning supports DeepSpeed with CUDA alone


def formula(trained: int, frozen: int, way: str, gpus: int) -> float:
    """Return the bytes of weights, gradients and Adam's states on each of `gpus` GPUs.

    Plain `bf16-mixed` holds all in float32: 4 + 4 + 8 bytes a trained parameter and 4 a frozen one. DeepSpeed holds weights and gradients
    in bfloat16, and float32 copies of the weights with Adam's two moments, 12 bytes; stage 2 shards all but the bfloat16 weights:
    2 + (2 + 12) / N (Rajbhandari et al., arXiv 1910.02054, Figure 1). Offloading keeps the 12, and the gradients after the backward pass,
    in the CPU's memory.

    >>> [formula(10, 0, way, 1) for way in ("plain", "zero2", "zero2-offload")]
    [160.0, 160.0, 20.0]
    """
    if way == "plain":
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
    """Train plainly and with the overlay `way` from the same weights on the same samples, and compare."""
    needed = (*NEEDED, *(OFFLOADING if way == "zero2-offload" and not work.rehearse else ()))
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise CannotRun(f"not installed here: {', '.join(missing)}")
    if way == "zero2-offload" and not work.rehearse and shutil.which("ninja") is None:
        raise CannotRun("no ninja on the PATH, which compiles DeepSpeed's Adam")
    losses: dict[str, list[float]] = {}
    steps = 2 if work.rehearse else STEPS
    for name in ("plain", way):
        overlays, keys = ([f"overlays/{name}"] if name != "plain" else []), step_keys(work, RECIPE, BATCH)
        keys |= {"trainer.max_steps": steps, "trainer.precision": "bf16-mixed", "data.init_args.num_workers": 0}
        if name != "plain" and work.device == "cpu":
            keys |= _on_cpu(name)
        meter = Meter(1, steps - 1)
        model = run_cli("fit", [RECIPE, *overlays], keys, [meter]).model
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
    first, second = torch.tensor(losses["plain"]), torch.tensor(losses[way])
    off = float(((second - first) / first).abs().max())
    work.note(losses=losses, largest_relative_difference=off, tolerance=TOLERANCE)
    if not off <= TOLERANCE:
        raise CheckFailed(f"the losses of {way} differ from the plain ones by up to {off:.1%}, more than {TOLERANCE:.0%}: {losses}")
