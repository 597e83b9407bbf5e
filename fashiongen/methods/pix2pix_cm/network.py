"""Pix2PixCM's generator and discriminator in pure torch; the code shared with MGCM is in `fashiongen.nn.template_matching`.

Shapes: B samples, images of S x S pixels, S a multiple of 64; w is the `width`, 64 as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from fashiongen.nn.template_matching import UPS, Down, Generated, Up

SLOPE = 0.2


class UNet(nn.Module):
    """An encoder-decoder with a skip connection into every decoder layer but the first, deterministic at inference."""

    def __init__(self, width: int) -> None:
        """Build it with `width` channels after the first layer."""
        super().__init__()
        w = width
        self.first = nn.Conv2d(3, w, kernel_size=4, stride=2, padding=1)
        self.down = nn.ModuleList([Down(w, 2 * w), Down(2 * w, 4 * w), Down(4 * w, 8 * w), Down(8 * w, 8 * w), Down(8 * w, 8 * w)])
        self.up = nn.ModuleList([Up(8 * w, 8 * w), Up(16 * w, 8 * w), Up(16 * w, 4 * w), Up(8 * w, 2 * w), Up(4 * w, w)])
        self.last = nn.ConvTranspose2d(2 * w, 3, kernel_size=4, stride=2, padding=1)

    def forward(self, tops: Tensor, keys: Sequence[Tensor] | None = None) -> Generated:
        """Generate each top's template; `keys`, one (B,) per Up, seed the dropout; None disables it."""
        features = self.first(tops)
        skips = [features]  # (B, w, S/2, S/2) to (B, 8w, S/32, S/32)
        for down in self.down:
            features = down(features)
            skips.append(features)
        features = skips.pop()  # (B, 8w, S/64, S/64)
        top_code = skips[-1]
        drops = [None] * UPS if keys is None else list(keys)
        template_code = features = self.up[0](features, drops[0])  # (B, 8w, S/32, S/32)
        for up, drop in zip(self.up[1:], drops[1:], strict=True):
            features = up(torch.cat([features, skips.pop()], dim=1), drop)
        template = self.last(relu(torch.cat([features, skips.pop()], dim=1)))
        return Generated(top_code, template_code, torch.tanh(template))


class PatchGAN(nn.Module):
    """Rates patches of a pair of top and bottom."""

    def __init__(self, width: int) -> None:
        """Build it with `width` channels after the first layer."""
        super().__init__()
        channels = [width, 2 * width, 4 * width, 8 * width]
        self.first = _conv(6, width, bias=True)
        pairs = list(pairwise(channels))
        self.convs = nn.ModuleList(_conv(before, after, bias=False) for before, after in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _, after in pairs)
        self.out = nn.Conv2d(8 * width, 1, kernel_size=1)

    def forward(self, tops: Tensor, bottoms: Tensor) -> Tensor:
        """Return how real each patch of the bottoms looks, (B, 1, S/16, S/16) in [0, 1]."""
        features = leaky_relu(self.first(torch.cat([tops, bottoms], dim=1)), SLOPE)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            features = leaky_relu(norm(conv(features)), SLOPE)
        return torch.sigmoid(self.out(features))


def _conv(channels: int, out: int, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel_size=4, stride=2, padding=1, padding_mode="reflect", bias=bias)
