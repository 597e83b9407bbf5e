"""Classifier-free guidance: dropping conditions in training, combining two predictions in sampling."""

from __future__ import annotations

from torch import Tensor

from fashiongen.nn import noise


def condition_mask(ids: list[str], probability: float, *names: str | int) -> Tensor:
    """Return (B,) bool on the CPU, False for samples whose condition is dropped, with `probability`."""
    return noise.uniform(noise.keys(ids, *names)) >= probability


def guide(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Return s * conditional + (1 - s) * unconditional, any shape (Ho and Salimans; IGR eq. 2)."""
    return unconditional + scale * (conditional - unconditional)
