"""Latents of the items of outfits: a mean over a history or over an outfit's other items, without a loop over samples."""

from __future__ import annotations

from torch import Tensor


def mean_of_rows(values: Tensor, row: Tensor, empty: Tensor, count: int) -> Tensor:
    """Return the mean of each row's entries: (count, ...).

    Args:
        values: (N, ...).
        row: the row of each entry, (N,) int64.
        empty: the value of a row without entries, (1, ...).
        count: the number of rows.
    """
    total = values.new_zeros(count, *values.shape[1:]).index_add_(0, row, values)
    entries = row.bincount(minlength=count).view(count, *[1] * (values.ndim - 1))
    return total.div(entries.clamp(min=1)).where(entries > 0, empty.to(total))


def mean_of_others(values: Tensor, row: Tensor, count: int) -> Tensor:
    """Return for each entry the mean of the other entries of its row, (N, ...); 0 where it has no others.

    Args:
        values: (N, ...).
        row: the row of each entry, (N,) int64.
        count: the number of rows.
    """
    total = values.new_zeros(count, *values.shape[1:]).index_add_(0, row, values)
    others = (row.bincount(minlength=count)[row] - 1).view(len(row), *[1] * (values.ndim - 1))
    return (total[row] - values) / others.clamp(min=1) * (others > 0)
