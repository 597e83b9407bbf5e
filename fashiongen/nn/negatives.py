"""In-batch negatives: the bottoms of other rows, less those that are known to go with the row's top."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def negative_mask(bottom_ids: Sequence[str], positives: Sequence[Sequence[str]]) -> Tensor:
    """Return (B, B) bool on the CPU: entry (i, j) is True where the bottom of row j is not known to go with the top of row i.

    >>> negative_mask(["a", "b", "c"], [("a", "c"), ("b",), ("c",)]).tolist()
    [[False, True, False], [True, False, True], [True, True, False]]

    Args:
        bottom_ids: B ids; the same bottom may stand in several rows.
        positives: for each row all bottoms known to go with its top; its own counts in any case.
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
    """Return for each row the embeddings of other rows' bottoms, (R, B, ...): the batch rolled by each of `rolls`."""
    return torch.stack([bottoms.roll(by, dims=0) for by in rolls])


def rolled_mask(negative: Tensor, rolls: Sequence[int]) -> Tensor:
    """Return the entries of a `negative_mask` (B, B) that belong to `rolled` bottoms, (R, B)."""
    return torch.stack([negative.roll(by, dims=1).diagonal() for by in rolls])


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the `values` where `mask` (bool, of the same shape) is True; 0, with zero gradient, where it is nowhere."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)
