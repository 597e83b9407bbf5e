"""TryOffDiff's networks in pure torch: the adapter from SigLIP's tokens to the denoiser's context, and the denoiser.

Shapes: B samples; latents (B, 4, h, w); SigLIP's tokens (B, N, D), 1024 of 768 as published; context (B, L, C), 77 of 768. The modules
have the names that they have in the authors' files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, relu

from fashiongen.nn import noise

Version = Literal["v1", "v2-single", "v2-multi"]
"""The first paper's model; the second paper's for one kind of garment; and for all kinds, told which."""

LABELS = {"upper": 0, "lower": 1, "full": 2}
"""The classes of `v2-multi`, by category."""

HEADS = 8
HIDDEN = 2048
DROPOUTS = 3
"""Places in the adapter's transformer layer where values are dropped in training."""


class AdapterLayer(nn.Module):
    """torch's `nn.TransformerEncoderLayer`, with its defaults and its keys, but with dropout that is keyed by sample.

    Attention's weights are not dropped, as torch's layer does: a sample has eight million of them.
    """

    def __init__(self, width: int, dropout: float) -> None:
        """Build it for tokens of `width`; `dropout` is the probability that a value is dropped in training."""
        super().__init__()
        self.dropout = dropout
        self.self_attn = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.linear1 = nn.Linear(width, HIDDEN)
        self.linear2 = nn.Linear(HIDDEN, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, keys: Sequence[Tensor] | None = None) -> Tensor:
        """Map (B, N, D) to (B, N, D); `keys`, one (B,) per dropout, seed each sample's dropout, None disables it."""
        first, second, third = keys if keys is not None else (None,) * DROPOUTS
        attended = self.self_attn(tokens, tokens, tokens, need_weights=False)[0]
        tokens = self.norm1(tokens + self._drop(attended, first))
        hidden = self._drop(relu(self.linear1(tokens)), second)
        out: Tensor = self.norm2(tokens + self._drop(self.linear2(hidden), third))
        return out

    def _drop(self, values: Tensor, key: Tensor | None) -> Tensor:
        if key is None or self.dropout == 0:
            return values
        return values * noise.coins(key, values.shape[1:], 1 - self.dropout, values.device) / (1 - self.dropout)


class TryOffDiffNetwork(nn.Module):
    """The adapter and the denoiser: all that TryOffDiff trains.

    Attributes:
        unscaled: a bool that checkpoints hold: whether the denoiser was trained on latents + sigma * noise as they are, without the
            division by sqrt(sigma^2 + 1) that gives them unit variance. That is so for the authors' v2 weights and what starts from them.
    """

    unscaled: Tensor

    def __init__(self, unet: UNet2DConditionModel, version: Version, *, tokens: int, width: int, context: int, dropout: float) -> None:
        """Build around a pretrained `unet`, which becomes the denoiser.

        Args:
            unet: epsilon-predicting denoiser with 4 input channels.
            version: `v2-multi` adds an embedding of the class to the denoiser's timestep; only `v1` has a transformer layer.
            tokens: N, the number of SigLIP's tokens.
            width: D, their size.
            context: L, the number of tokens that the denoiser attends to.
            dropout: of v1's transformer layer.
        """
        super().__init__()
        self.version = version
        self.transformer = AdapterLayer(width, dropout) if version == "v1" else None
        self.proj = nn.Linear(tokens, context)
        if version != "v1":
            nn.init.xavier_uniform_(self.proj.weight)
        self.norm = nn.LayerNorm(width)
        # As published the widths are equal. The tiny checkpoints' are not.
        attended = unet.config.cross_attention_dim
        self.resize = nn.Linear(width, attended, bias=False) if width != attended else None
        self.unet = unet
        if version == "v2-multi":
            unet.register_to_config(num_class_embeds=len(LABELS))
            unet.class_embedding = nn.Embedding(len(LABELS), unet.time_embedding.linear_2.out_features)
        self.register_buffer("unscaled", torch.tensor(False))

    def context(self, tokens: Tensor, keys: Sequence[Tensor] | None = None) -> Tensor:
        """Return what the denoiser attends to, (B, L, C), given SigLIP's tokens; it does not depend on the timestep.

        Args:
            tokens: (B, N, D); zeros give the unconditional context.
            keys: of the transformer layer's dropout, see `AdapterLayer`.
        """
        tokens = tokens.to(self.proj.weight.dtype)
        if self.transformer is not None:
            tokens = self.transformer(tokens, keys)
        mixed: Tensor = self.norm(self.proj(tokens.transpose(1, 2)).transpose(1, 2))  # a linear map over the tokens: (B, L, D)
        return mixed if self.resize is None else self.resize(mixed)

    def forward(self, noisy: Tensor, timestep: Tensor, context: Tensor, labels: Tensor | None = None) -> Tensor:
        """Predict the noise in (B, 4, h, w) latents at (B,) timesteps; `labels` are the (B,) classes of `v2-multi`, else None."""
        noisy = noisy.to(self.unet.dtype)  # noise is added in float32, whatever the weights' dtype
        predicted: Tensor = self.unet(noisy, timestep, encoder_hidden_states=context, class_labels=labels).sample
        return predicted.float()


def to_square(images: Tensor, side: int) -> Tensor:
    """Pad (B, 3, H, W) images to squares by repeating their edges, equally on both sides, and resize them to (B, 3, side, side)."""
    height, width = images.shape[-2:]
    top, left, longer = *_margins(height, width), max(height, width)
    square = pad(images, (left, longer - width - left, top, longer - height - top), mode="replicate")
    return _resized(square, side)


def from_square(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Undo `to_square`: resize (B, 3, S, S) squares to the longer side of `size` and crop the middle, (B, 3, *size)."""
    height, width = size
    top, left = _margins(height, width)
    return _resized(images, max(size))[..., top : top + height, left : left + width]


def _margins(height: int, width: int) -> tuple[int, int]:
    """Return the rows above and the columns left of an image in its square; an odd rest is below or on the right."""
    longer = max(height, width)
    return (longer - height) // 2, (longer - width) // 2


def _resized(square: Tensor, side: int) -> Tensor:
    if square.shape[-1] == side:
        return square
    return interpolate(square, size=(side, side), mode="bilinear", antialias=True)
