"""In-batch negatives: the bottoms of other rows, except those known to match the row's top."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def negative_mask(bottom_ids: Sequence[str], positives: Sequence[Sequence[str]]) -> Tensor:
    """Return (B, B) bool on the CPU: entry (i, j) is True if the bottom of row j is not known to match the top of row i.

    >>> negative_mask(["a", "b", "c"], [("a", "c"), ("b",), ("c",)]).tolist()
    [[False, True, False], [True, False, True], [True, True, False]]

    Args:
        bottom_ids: B ids; a bottom may occur in several rows.
        positives: for each row all bottoms known to match its top; its own always counts.
    """
    rows_of: dict[str, list[int]] = {}
    for row, bottom in enumerate(bottom_ids):
        rows_of.setdefault(bottom, []).append(row)
    negative = torch.ones(len(bottom_ids), len(bottom_ids), dtype=torch.bool)
    for row, known in enumerate(positives):
        for bottom in {bottom_ids[row], *known}:
            negative[row, rows_of.get(bottom, [])] = False
    return negative


def rolled(bottoms: Tensor, rolls: Sequence[int]) -> Tensor:
    """Return the embeddings of other rows' bottoms for each row, (R, B, ...): the batch rolled by each of `rolls`."""
    return torch.stack([bottoms.roll(by, dims=0) for by in rolls])


def rolled_mask(negative: Tensor, rolls: Sequence[int]) -> Tensor:
    """Return the entries of a `negative_mask` (B, B) that belong to `rolled` bottoms, (R, B)."""
    return torch.stack([negative.roll(by, dims=1).diagonal() for by in rolls])


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the `values` where `mask` (bool, of the same shape) is True; 0, with zero gradient, if it is True nowhere."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
