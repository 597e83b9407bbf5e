"""Keeping what frozen networks make of a sample, from epoch to epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Kept:
    """Tensors by sample id, in the memory of the device that made them.

    Right only where a sample is the same every time it comes. A batch with any unknown sample is computed whole, so that a sample's value
    does not depend on which samples were known (a resumed run knows none).
    """

    def __init__(self) -> None:
        """Start empty."""
        self._values: dict[tuple[str, str], Tensor] = {}

    def __call__(self, kind: str, ids: list[str], compute: Callable[[], Tensor]) -> Tensor:
        """Return `compute()`, (B, ...), for the samples `ids`, or what it was for each of them before."""
        if any((kind, id_) not in self._values for id_ in ids):
            values = compute().detach()
            self._values.update({(kind, id_): value.clone() for id_, value in zip(ids, values, strict=True)})
            return values
        return torch.stack([self._values[kind, id_] for id_ in ids])
