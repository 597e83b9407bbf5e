"""A few training steps of a full recipe at the paper's size in bfloat16: time, peak memory, and the share of the card's peak (MFU)."""

from __future__ import annotations

import math
import re
import statistics

import torch

from gpu.cards import peak_flops
from gpu.training import Meter, forget, parent_keys, run_cli, settings_of, step_keys
from gpu.work import CheckFailed, Work

SMALLEST_BATCH = 2
FULL = re.compile("out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_(ALLOC_FAILED|INTERNAL_ERROR_HOST_ALLOCATION_FAILED)")
WARM = 1
LARGE = 512 * 512
TIMED = {True: 4, False: 24}
"""Steps that are timed, of large images and of small ones."""


def run(work: Work, recipe: str) -> None:
    """Measure a recipe's steps with the recipe's own batch, or the largest half, quarter, ... of it that fits the GPU."""
    settings = settings_of(recipe)
    own: int = settings["data"]["init_args"]["batch_size"]
    size: list[int] = settings["data"]["init_args"]["size"]
    batch, too_large = (4 if work.rehearse else own), list(work.earlier.get("too_large", []))  # known of this card from an older record
    if too_large:
        work.note(too_large=too_large)
        batch = too_large[-1] // 2
    parents = parent_keys(work, recipe)
    forget()  # what drawing random weights has left on the card
    while True:
        meter = Meter(WARM, 1 if work.rehearse else TIMED[math.prod(size) > LARGE], count=True, work=work)
        if _fits(work, recipe, batch, meter, parents):
            break
        too_large.append(batch)
        work.note(too_large=too_large)
        if (batch := batch // 2) < SMALLEST_BATCH:
            raise CheckFailed(f"not even a batch of {too_large[-1]} fits the GPU's memory")
        forget()
    if not all(math.isfinite(loss) for loss in meter.losses):
        raise CheckFailed(f"losses are not finite: {meter.losses}")
    seconds = statistics.median(meter.seconds)
    rate = None if meter.flops is None else meter.flops * batch / seconds
    peak = peak_flops(work.common["card"])
    work.note(**meter.measured(), flops_a_sample=meter.flops)
    work.row(
        recipe=recipe,
        batch=batch if batch == own else f"{batch} (recipe: {own})",
        **{
            "size": "small" if work.rehearse else "x".join(map(str, size)),
            "trained, M": meter.parameters["trained"] / 1e6,
            "step, s": seconds,
            "with loading, s": statistics.median(meter.whole),
            "samples/s": batch / seconds,
            "peak, GB": meter.peak / 1e9,
            "TFLOP a sample": None if meter.flops is None else meter.flops / 1e12,
            "TFLOP/s": None if rate is None else rate / 1e12,
            "MFU": None if rate is None or peak is None else f"{rate / peak:.1%}",
        },
    )


def _fits(work: Work, recipe: str, batch: int, meter: Meter, parents: dict[str, str]) -> bool:
    """Run the steps; return whether they fit the memory. That only the count of operations does not is no failure."""
    keys = step_keys(work, recipe, batch) | parents | {"trainer.max_steps": meter.steps}
    try:
        run_cli("fit", [recipe, "overlays/bf16"], keys, [meter])
    except RuntimeError as error:  # torch.OutOfMemoryError is one; cuBLAS and cuDNN report a full card in words of their own
        if not (isinstance(error, torch.OutOfMemoryError) or FULL.search(str(error))):
            raise
        if len(meter.seconds) < meter.timed:
            return False
        work.note(not_counted="the operations of one sample without gradient checkpointing do not fit the memory")
    return True
