"""Negatives out of the batch itself: the bottoms of other rows, and which of them are none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fashiongen.batches import PairBatch


def rolled(bottoms: Tensor, rolls: Sequence[int]) -> Tensor:
    """Return for each row the embeddings of other rows' bottoms, (R, B, ...): the batch rolled by each of `rolls`."""
    return torch.stack([bottoms.roll(by, dims=0) for by in rolls])


def wrong(batch: PairBatch, rolls: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Tell which of the rolled bottoms really are wrong for the row's top, (R, B) bool.

    False where the rolled bottom is the row's own, or is known to go with its top as well.
    """
    size = len(batch)
    known = [{own, *positives} for own, positives in zip(batch.bottom_ids, batch.positives, strict=True)]
    return torch.tensor(
        [[batch.bottom_ids[(row - by) % size] not in known[row] for row in range(size)] for by in rolls], dtype=torch.bool, device=device
    )


def mean_over(values: Tensor, counted: Tensor) -> Tensor:
    """Return the mean of the `values` that are `counted` (bool, of the same shape); 0, with zero gradient, where none is."""
    return torch.where(counted, values, 0.0).sum() / counted.sum().clamp(min=1)
