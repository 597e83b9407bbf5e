"""DiFashion's mutual encoder in pure torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        hidden = self.dropout(nn.functional.leaky_relu(self.hidden(latents.flatten(1))))
        return torch.tanh(self.output(hidden)).view_as(latents)
