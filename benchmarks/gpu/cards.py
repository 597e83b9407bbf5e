"""The card: its published peak, and what it reaches."""

from __future__ import annotations

import re
import statistics
import time

import torch

from gpu.work import CannotRun, Work

PEAKS = {
    "B200": 2250,
    "H200": 989,
    "H100 NVL": 835,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10G": 70,
    "A10": 125,
    "RTX 6000 Ada": 364,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""Dense bfloat16 TFLOP/s with float32 accumulation, from the makers' data sheets; the first name that a card's name contains counts."""


def peak_flops(card: str) -> float | None:
    """Return a card's published peak in FLOP/s; None if the card is unknown.

    >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("NVIDIA L40"), peak_flops("cpu")
    (989000000000000.0, None, None)
    """
    return next((peak * 1e12 for name, peak in PEAKS.items() if re.search(rf"\b{name}\b", card)), None)


def probe(work: Work) -> None:
    """Note the card's name.

    Raises:
        CannotRun: if there is none.
    """
    if not torch.cuda.is_available():
        raise CannotRun("no CUDA GPU")
    work.note(card=torch.cuda.get_device_name(0))


def measure(work: Work) -> None:
    """Measure a large matrix product in bfloat16 and a copy within the memory."""
    device, side, repeats = torch.device(work.device), (256 if work.rehearse else 8192), (2 if work.rehearse else 20)
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = side**3 * 2 / _median_seconds(lambda: left @ right, device, repeats)
    source = torch.randn(2**16 if work.rehearse else 2**30, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / _median_seconds(lambda: target.copy_(source), device, repeats)
    if work.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        work.note(memory_bytes=properties.total_memory, cuda=torch.version.cuda, capability=f"{properties.major}.{properties.minor}")
    work.row(
        **{
            "product": f"{side}x{side}, bf16",
            "TFLOP/s": product / 1e12,
            "published": None if (peak := peak_flops(work.common["card"])) is None else peak / 1e12,
            "copy, GB/s (read and written)": copied / 1e9,
            "memory, GB": work.facts.get("memory_bytes", 0) / 1e9 or None,
        }
    )


def _median_seconds(call: object, device: torch.device, repeats: int) -> float:
    """Time calls by CUDA's events after a warm-up; by the clock without a GPU."""
    assert callable(call)
    for _ in range(3):
        call()
    found = []
    for _ in range(repeats):
        if device.type == "cuda":
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            call()
            last.record()
            torch.cuda.synchronize(device)
            found.append(first.elapsed_time(last) / 1e3)
        else:
            started = time.perf_counter()
            call()
            found.append(time.perf_counter() - started)
    return statistics.median(found)
