"""Latents of the items of outfits: means over a history or over an outfit's other items, and what is made of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TRAINING_PAIRS = ("pants", "earrings", "trousers", "shorts", "shoes")
"""What a prompt calls a pair when images are generated: the first two as in DiFashion's training, the others are the wardrobe's."""
EVALUATION_PAIRS = ("shoes", "pants", "sneakers", "boots", "earrings", "slippers", "sandals")
"""What a prompt calls a pair in DiFashion's evaluation."""


def item_prompt(category: str, pairs: tuple[str, ...] = TRAINING_PAIRS, quality: bool = True) -> str:
    """Return DiFashion's prompt of an item.

    >>> item_prompt("women's casual pants")
    "A photo of a pair of women's casual pants, on white background, high quality"

    Args:
        category: its category in words.
        pairs: the words in a category that make it a pair.
        quality: whether the prompt ends as in training.
    """
    pair = "pair of " if any(word in category for word in pairs) else ""
    return f"A photo of a {pair}{category}, on white background{', high quality' if quality else ''}"


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


def mean_of_others(values: Tensor, row: Tensor, count: int, empty: Tensor | None = None) -> Tensor:
    """Return for each entry the mean of the other entries of its row, (N, ...).

    Args:
        values: (N, ...).
        row: the row of each entry, (N,) int64.
        count: the number of rows.
        empty: the value where there are no others, (1, ...); 0 by default.
    """
    total = values.new_zeros(count, *values.shape[1:]).index_add_(0, row, values)
    others = (row.bincount(minlength=count)[row] - 1).view(len(row), *[1] * (values.ndim - 1))
    mean = (total[row] - values) / others.clamp(min=1)
    return mean.where(others > 0, torch.zeros_like(mean[:1]) if empty is None else empty.to(mean))


class MutualEncoder(nn.Module):
    """m = tanh(W_2 dropout(leaky_relu(W_1 z))): the mean of the other items' latents, made a condition of the same shape."""

    def __init__(self, size: int, width: int = 256, dropout: float = 0.1) -> None:
        """Build two linear layers.

        Args:
            size: of flattened latents: 16384 for images of 512x512.
            width: of the hidden layer.
            dropout: in training, after the first layer.
        """
        super().__init__()
        self.hidden = nn.Linear(size, width)
        self.output = nn.Linear(width, size)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.hidden, self.output):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, latents: Tensor) -> Tensor:
        """Return the condition of N items, (N, C, h, w), in [-1, 1], from the others' mean, (N, C, h, w)."""
        inputs = latents.flatten(1).to(self.hidden.weight.dtype)
        hidden = self.dropout(nn.functional.leaky_relu(self.hidden(inputs)))
        return torch.tanh(self.output(hidden)).view_as(latents).to(latents.dtype)
