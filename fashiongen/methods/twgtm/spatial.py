"""TWGTM's spatial refinement module: Swin features, TaskFormer, and the decoder to the UNet's widths (eqs. 5 to 12).

Shapes: B samples; K queries and all features of width d; H_1, H_2, H_3 at 1/4, 1/8, 1/16 of the image; F_QF is (B, N, D).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn
from torch.nn.functional import interpolate, logsigmoid, scaled_dot_product_attention
from transformers import SwinBackbone, SwinConfig, SwinModel

from fashiongen.errors import UserError
from fashiongen.nn.parts import load_part

STAGES = 3
"""Scales of the Swin Transformer that are used."""


class Spatial(NamedTuple):
    """F_SRM, tokens (B, h * w, C) by scale of the UNet, and the logits of the flat garment mask, (B, 1, H/4, W/4)."""

    tokens: list[Tensor]
    flat_mask: Tensor


class TaskMaps(NamedTuple):
    """TaskFormer's output: TFQ, (B, K, H/4, W/4), its first map in [0, 1], and that map's logits, (B, 1, H/4, W/4)."""

    maps: Tensor
    first: Tensor


class SpatialRefinement(nn.Module):
    """Image encoder, TaskFormer and decoder."""

    def __init__(
        self,
        swin: SwinBackbone,
        semantic_width: int,
        widths: list[int],
        heads: list[int],
        width: int,
        queries: int,
        units: int,
    ) -> None:
        """Build around an image encoder.

        Args:
            swin: gives H_1, H_2, H_3.
            semantic_width: D, of F_QF.
            widths: C of each scale of the UNet that has attention, finest first.
            heads: of the decoder's attention at each of them.
            width: d of TaskFormer.
            queries: K; the first predicts the flat garment mask.
            units: of TaskFormer, each of three blocks.
        """
        super().__init__()
        self.swin = swin
        self.taskformer = TaskFormer(list(swin.channels), semantic_width, width, queries, units)
        self.decoder = Decoder(queries, widths, heads)

    def forward(self, image: Tensor, semantic: Tensor, size: tuple[int, int] | None) -> Spatial:
        """Compute F_SRM and the flat mask of a reference.

        Args:
            image: the reference, (B, 3, H, W), normalised for Swin.
            semantic: F_QF, (B, N, D).
            size: h and w of the UNet's finest scale for one of the two images; None leaves the decoder out (phase 1).
        """
        features: list[Tensor] = list(self.swin(image).feature_maps)
        maps, flat_mask = self.taskformer(features, semantic)
        return Spatial([] if size is None else self.decoder(maps, size), flat_mask)


class TaskFormer(nn.Module):
    """Queries refined in units of three blocks: over F_QF, H_2 and H_3, each with the unit's masks (eqs. 5 to 7)."""

    def __init__(self, feature_widths: list[int], semantic_width: int, width: int, queries: int, units: int) -> None:
        """Build `units` units; the projections to masks are shared by all of them, as in Mask2Former."""
        super().__init__()
        heads = max(1, width // 32)
        self.queries = nn.Parameter(torch.randn(1, queries, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, queries, width) * 0.02)
        self.levels = nn.Parameter(torch.randn(STAGES, width) * 0.02)
        self.project_features = nn.ModuleList(nn.Conv2d(of, width, 1) for of in feature_widths)
        self.project_semantic = nn.Linear(semantic_width, width)
        self.units = nn.ModuleList(nn.ModuleList(Block(width, heads) for _ in range(3)) for _ in range(units))
        self.norm = nn.LayerNorm(width)
        self.semantic_mask = nn.Linear(width, width)
        self.spatial_mask = mlp(width)
        self.task = QueryMLPs(queries, width)

    def forward(self, features: list[Tensor], semantic: Tensor) -> TaskMaps:
        """Return TFQ (eqs. 10, 11) from H_1 to H_3 and F_QF."""
        h1, h2, h3 = (project(feature) for project, feature in zip(self.project_features, features, strict=True))
        words = self.project_semantic(semantic)
        # Keys carry their place, values do not; the masks are compared with the features alone.
        keys = [words + self.levels[0], *(_tokens(h + positions(h)) + self.levels[level] for level, h in ((1, h2), (2, h3)))]
        values = [words, _tokens(h2), _tokens(h3)]
        state: Tensor = self.queries.expand(len(semantic), -1, -1)  # F_0
        for unit in self.units:
            on_words, on_image = self.masks(state, words, h1)
            masks = [on_words, *(_resized(on_image, h) for h in (h2, h3))]
            for block, key, value, mask in zip(unit, keys, values, masks, strict=True):  # type: ignore[call-overload]  # a ModuleList
                state = block(state, self.positions, key, value, mask)
        maps = torch.einsum("bkd,bdhw->bkhw", self.task(self.norm(state)), h1)
        return TaskMaps(torch.cat([maps[:, :1].sigmoid(), maps[:, 1:]], dim=1), maps[:, :1])

    def masks(self, state: Tensor, words: Tensor, h1: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of M^1, (B, K, N), and of M^2, (B, K, H/4, W/4); their sigmoids are eqs. 8 and 9."""
        normed = self.norm(state)
        on_words = torch.einsum("bkd,bnd->bkn", self.semantic_mask(normed), words)
        return on_words, torch.einsum("bkd,bdhw->bkhw", self.spatial_mask(normed), h1)


class Block(nn.Module):
    """Masked cross-attention, self-attention among the queries, and a feed-forward network, as in Mask2Former (arXiv 2112.01527)."""

    def __init__(self, width: int, heads: int) -> None:
        """Build one block."""
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, state: Tensor, positions: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Refine the queries (B, K, d) by keys and values (B, N, d), weighted by masks with logits (B, K, N)."""
        query, keys, values = (_split(part, self.heads) for part in (self.query(state + positions), self.key(key), self.value(value)))
        # Mask2Former blocks where M < 0.5, which gives its masks no gradient; adding log M weights by M itself, and blocks where it is 0.
        bias = logsigmoid(mask.float()).to(query.dtype)[:, None]
        attended = scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        state = self.norms[0](state + self.out(attended.transpose(1, 2).flatten(2)))
        placed = state + positions
        state = self.norms[1](state + self.self_attention(placed, placed, state, need_weights=False)[0])
        refined: Tensor = self.norms[2](state + self.feed_forward(state))
        return refined


class QueryMLPs(nn.Module):
    """An own MLP for each of K queries (MLP_task^j), computed together."""

    def __init__(self, queries: int, width: int) -> None:
        """Draw their weights as `nn.Linear` does."""
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.first, self.second = (nn.Parameter(torch.empty(queries, width, width).uniform_(-bound, bound)) for _ in range(2))
        self.first_bias, self.second_bias = (nn.Parameter(torch.zeros(queries, width)) for _ in range(2))

    def forward(self, state: Tensor) -> Tensor:
        """Map (B, K, d) to (B, K, d), each query by its own MLP."""
        hidden = (torch.einsum("bkd,kde->bke", state, self.first) + self.first_bias).relu()
        return torch.einsum("bkd,kde->bke", hidden, self.second) + self.second_bias


class Decoder(nn.Module):
    """Convolutions and a transformer block for each scale of the UNet (eq. 12)."""

    def __init__(self, queries: int, widths: list[int], heads: list[int]) -> None:
        """Map K maps to the widths C of the UNet's scales."""
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv2d(queries, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)) for width in widths
        )
        self.transformers = nn.ModuleList(
            BasicTransformerBlock(width, count, width // count) for width, count in zip(widths, heads, strict=True)
        )

    def forward(self, maps: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """Return F_SRM: (B, h * w, C) for each scale, `size` being the finest h and w; the maps are resized to each."""
        found = []
        for scale, (convolve, transform) in enumerate(zip(self.convolutions, self.transformers, strict=True)):
            target = [max(1, side // 2**scale) for side in size]
            resized = interpolate(maps.float(), size=target, mode="bilinear", antialias=True).to(maps.dtype)
            found.append(transform(_tokens(convolve(resized))))
        return found


def build_swin(width: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int) -> SwinBackbone:
    """Build a Swin Transformer with random weights, up to 1/16 of the image.

    Args:
        width: of its first stage; it doubles with each.
        depths: blocks of its three stages.
        heads: of the attention in each of them.
        window: side of its windows, in tokens.
    """
    return _three_stages(SwinConfig(embed_dim=width, depths=list(depths), num_heads=list(heads), window_size=window, patch_size=4))


def load_swin(folder: str) -> SwinBackbone:
    """Load a pretrained Swin Transformer, and keep what comes before its fourth stage; the norms of its three outputs start anew.

    Raises:
        UserError: if it cannot be loaded, or its patches are not of 4x4 pixels.
    """
    whole: SwinModel = load_part(SwinModel, folder, add_pooling_layer=False)
    if whole.config.patch_size != 4:
        raise UserError(f"swin: {folder}: has patches of {whole.config.patch_size} pixels; the paper's features start at 1/4 of the image")
    swin = _three_stages(whole.config)
    given = {f"swin.{key}": value for key, value in whole.state_dict().items()}
    with torch.no_grad():
        for key, value in swin.state_dict().items():
            if not key.startswith(("hidden_states_norms.", "swin.layernorm.")):  # not in the file, and of its fourth stage
                value.copy_(given[key])
    return swin


def _three_stages(config: SwinConfig) -> SwinBackbone:
    """Build the backbone of a config's first three stages, and freeze the norm after the last one, which nothing reads."""
    settings = config.to_dict() | {"depths": list(config.depths[:STAGES]), "num_heads": list(config.num_heads[:STAGES])}
    for name in ("stage_names", "out_features", "out_indices", "hidden_size", "num_layers"):
        settings.pop(name, None)  # they follow from the depths
    stages = [f"stage{stage + 1}" for stage in range(STAGES)]
    swin = SwinBackbone(SwinConfig(**settings | {"out_features": stages, "drop_path_rate": 0.0}))
    for name, parameter in swin.named_parameters():
        if name.startswith("swin.layernorm."):
            parameter.requires_grad_(False)
    return swin


def positions(features: Tensor) -> Tensor:
    """Return the sines and cosines of the places in (B, d, h, w), as in DETR: (1, d, h, w)."""
    width, (height, across) = features.shape[1], features.shape[-2:]
    count = width // 4 + (width % 4 > 0)
    frequencies = 10000 ** -(torch.arange(count, device=features.device) / count)
    encoded = []
    for length, axis in ((height, 0), (across, 1)):
        places = (torch.arange(length, device=features.device) + 1) / length * 2 * math.pi
        angles = places[:, None] * frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=1).T  # (2 count, length)
        encoded.append(waves[:, :, None].expand(-1, -1, across) if axis == 0 else waves[:, None].expand(-1, height, -1))
    return torch.cat(encoded)[None, :width].to(features)


def mlp(width: int) -> nn.Sequential:
    """Return MLP_mask, three layers as in Mask2Former."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def _tokens(features: Tensor) -> Tensor:
    """Flatten (B, C, h, w) to (B, h * w, C)."""
    return features.flatten(2).transpose(1, 2)


def _resized(logits: Tensor, like: Tensor) -> Tensor:
    """Resize masks (B, K, H/4, W/4) to the places of `like` and flatten them, (B, K, h * w)."""
    return interpolate(logits.float(), size=like.shape[-2:], mode="bilinear", antialias=True).flatten(2)


def _split(tokens: Tensor, heads: int) -> Tensor:
    """Split (B, N, heads * d) into (B, heads, N, d)."""
    split: Tensor = tokens.unflatten(-1, (heads, -1)).transpose(1, 2)
    return split
