"""MGCM's generator and discriminator in pure torch; the code shared with Pix2PixCM is in `fashiongen.nn.template_matching`.

Shapes: B samples, images of S x S pixels, S a multiple of 64; w is the `width`, 64 as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from fashiongen.nn.template_matching import UPS, Down, Generated, Up


class Generator(nn.Module):
    """An encoder-decoder without skip connections, deterministic at inference."""

    def __init__(self, width: int) -> None:
        """Build it with `width` channels after the first layer."""
        super().__init__()
        w = width
        self.first = nn.Conv2d(3, w, kernel_size=4, stride=2, padding=1)
        self.down = nn.ModuleList([Down(w, 2 * w), Down(2 * w, 4 * w), Down(4 * w, 8 * w), Down(8 * w, 8 * w), Down(8 * w, 8 * w)])
        self.up = nn.ModuleList([Up(8 * w, 8 * w), Up(8 * w, 8 * w), Up(8 * w, 4 * w), Up(4 * w, 2 * w), Up(2 * w, w)])
        self.last = nn.ConvTranspose2d(w, 3, kernel_size=4, stride=2, padding=1)

    def forward(self, tops: Tensor, keys: Sequence[Tensor] | None = None) -> Generated:
        """Generate each top's template; `keys`, one (B,) per Up, seed the dropout; None disables it."""
        features = self.first(tops)  # (B, w, S/2, S/2)
        for down in self.down[:-1]:
            features = down(features)
        top_code = features  # (B, 8w, S/32, S/32)
        features = self.down[-1](features)  # (B, 8w, S/64, S/64)
        drops = [None] * UPS if keys is None else list(keys)
        template_code = features = self.up[0](features, drops[0])  # (B, 8w, S/32, S/32)
        for up, drop in zip(self.up[1:], drops[1:], strict=True):
            features = up(features, drop)
        return Generated(top_code, template_code, torch.tanh(self.last(relu(features))))


class Discriminator(nn.Module):
    """Rates a pair of top and bottom with a single probability."""

    def __init__(self, width: int, image_size: int) -> None:
        """Build it with `width` channels after the first layer, for images of `image_size` pixels per side."""
        super().__init__()
        channels = [width, 2 * width, 4 * width, 8 * width]
        self.first = nn.Conv2d(6, width, kernel_size=4, stride=2, padding=1)
        pairs = list(pairwise(channels))
        self.convs = nn.ModuleList(nn.Conv2d(before, after, kernel_size=4, stride=2, padding=1) for before, after in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _, after in pairs)
        self.out = nn.Linear(8 * width * (image_size // 16) ** 2, 1)

    def forward(self, tops: Tensor, bottoms: Tensor) -> Tensor:
        """Return how real the bottoms look, (B, 1) in [0, 1]."""
        features = leaky_relu(self.first(torch.cat([tops, bottoms], dim=1)))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            features = leaky_relu(norm(conv(features)))
        return torch.sigmoid(self.out(features.flatten(1)))
