"""Random draws that depend on the sample, not on the batch.

Every draw is a pure function of a key, and a key is a hash of names: (seed, purpose, sample id, step or slot or draw). A sample's
noise is therefore the same alone and in a batch, with any number of workers or GPUs, on any device, and after a resume. The
generator is counter-based (the SplitMix64 finaliser over key + counter), so a dozen tensor operations draw a whole batch, without a
loop over samples.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_UNIT = 2.0**-24


def keys(ids: Sequence[str], *names: str | int) -> Tensor:
    """Return one int64 key per sample, (B,) on the CPU: the hash of `names` and the sample's id.

    By convention the first name is the seed, the second the purpose ("noise", "timestep", "dropout").
    """
    prefix = "/".join(str(name) for name in names)
    digests = [hashlib.blake2b(f"{prefix}/{sample}".encode(), digest_size=8).digest() for sample in ids]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)


def normal(key: Tensor, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Draw standard normal float32 numbers, (B, *shape), by the Box-Muller transform of two 24-bit uniforms."""
    count = math.prod(shape)
    bits = _bits(key.to(device), (count + 1) // 2)
    radius = torch.sqrt(-2.0 * torch.log((_shift(bits, 40) + 1).float() * _UNIT))
    angle = (2.0 * math.pi) * ((bits & 0xFFFFFF).float() * _UNIT)
    pairs = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
    return pairs.flatten(1)[:, :count].reshape(len(key), *shape)


def uniform(key: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Draw one uniform float32 number in [0, 1) per key, (B,)."""
    return _shift(_bits(key.to(device), 1)[:, 0], 40).float() * _UNIT


def coins(key: Tensor, shape: Sequence[int], probability: float, device: torch.device | str = "cpu") -> Tensor:
    """Draw bools that are True with `probability`, (B, *shape): per-sample dropout masks."""
    return (_shift(_bits(key.to(device), math.prod(shape)), 40).float() * _UNIT < probability).reshape(len(key), *shape)


def integers(key: Tensor, low: int, high: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw one int64 in [low, high) per key, (B,); the range must be below 2**31."""
    return low + (_shift(_bits(key.to(device), 1)[:, 0], 33) * (high - low) >> 31)


def _bits(key: Tensor, count: int) -> Tensor:
    """Return (B, count) int64 of 64 mixed bits each."""
    counter = torch.arange(1, count + 1, dtype=torch.int64, device=key.device) * _GOLDEN
    mixed = key[:, None] + counter
    mixed = (mixed ^ _shift(mixed, 30)) * _FIRST
    mixed = (mixed ^ _shift(mixed, 27)) * _SECOND
    return mixed ^ _shift(mixed, 31)


def _shift(bits: Tensor, by: int) -> Tensor:
    """Logical right shift (torch has no unsigned 64-bit arithmetic)."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
