"""TWGTM's networks in pure torch: the UNet over two images side by side, with extended attention blocks, and the two modules beside it.

Shapes: B samples; latents of one image (B, 4, h, w), of both (B, 4, h, 2w); F_SAM (B, 1 + N, D).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from fashiongen.methods.twgtm.spatial import SpatialRefinement
from fashiongen.nn.attention import (
    ImagePromptAttention,
    JoinedSelfAttention,
    KeyValue,
    Memory,
    MemoryAttention,
    attention_layers,
    heads_of,
    output_of,
    project,
)

Fusion = Literal["extended", "joined", "ip_adapter"]
"""Where F_SRM enters: the extended attention block, or Table 4's variants 6 (before self-attention) and 7 (IP-Adapter)."""


class Reference(NamedTuple):
    """What the UNet knows of the reference besides its latents: F_SAM, (B, 1 + N, D), and F_SRM by scale, each (B, h * w, C), or none."""

    semantic: Tensor
    spatial: list[Tensor]


class ExtendedSelfAttention(nn.Module):
    """F_fused = SelfAttn(Q, K, V) + ZLL(CrossAttn(Q, K', V')), with K', V' from F_SRM (eq. 13)."""

    def __init__(self, name: str, width: int, inner: int) -> None:
        """Build the projections of F_SRM (B, N, `width`) for the layer `name`; ZLL starts as zero, so that nothing changes at first."""
        super().__init__()
        self.name = name
        self.to_k_spatial = nn.Linear(width, inner, bias=False)
        self.to_v_spatial = nn.Linear(width, inner, bias=False)
        self.zero_linear = nn.Linear(inner, inner)
        nn.init.zeros_(self.zero_linear.weight)
        nn.init.zeros_(self.zero_linear.bias)

    def project(self, attn: Attention, tokens: Tensor) -> KeyValue:
        """Return K' and V' of F_SRM."""
        return KeyValue(heads_of(self.to_k_spatial(tokens), attn.heads), heads_of(self.to_v_spatial(tokens), attn.heads))

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        memory: dict[str, Memory] | None = None,
    ) -> Tensor:
        """Attend from (B, N, C) tokens to themselves and, if `memory` has them, to F_SRM's keys and values; returns (B, N, C)."""
        query, key, value = (heads_of(part(hidden_states), attn.heads) for part in (attn.to_q, attn.to_k, attn.to_v))
        fused = output_of(attn, scaled_dot_product_attention(query, key, value))
        if memory is None or self.name not in memory:
            return fused
        spatial = memory[self.name].first
        crossed = scaled_dot_product_attention(query, spatial.key, spatial.value).transpose(1, 2).flatten(2)
        extended: Tensor = fused + self.zero_linear(crossed)
        return extended


class JoinedFeatures(nn.Module):
    """Table 4's variant 6: F_SRM's tokens are appended to the UNet's before self-attention, whose other outputs are dropped."""

    def __init__(self, name: str, width: int, inner: int) -> None:
        """Project F_SRM (B, N, `width`) to the tokens' width, `inner`."""
        super().__init__()
        self.name = name
        self.to_tokens = nn.Linear(width, inner)

    def project(self, attn: Attention, tokens: Tensor) -> KeyValue:
        """Return the layer's own keys and values of F_SRM."""
        return project(attn, self.to_tokens(tokens))

    __call__ = JoinedSelfAttention.__call__  # the same attention, with weights of its own


class SpatialPromptAttention(nn.Module):
    """Table 4's variant 7: cross-attention to F_SAM plus cross-attention to F_SRM, each with own projections (IP-Adapter)."""

    def __init__(self, name: str, width: int, inner: int) -> None:
        """Build the projections of F_SRM (B, N, `width`) for the layer `name`."""
        super().__init__()
        self.name = name
        self.scale = 1.0
        self.to_k_spatial = nn.Linear(width, inner, bias=False)
        self.to_v_spatial = nn.Linear(width, inner, bias=False)

    def project(self, attn: Attention, tokens: Tensor) -> KeyValue:
        """Return the keys and values of F_SRM."""
        return KeyValue(heads_of(self.to_k_spatial(tokens), attn.heads), heads_of(self.to_v_spatial(tokens), attn.heads))

    __call__ = ImagePromptAttention.__call__  # the same attention, whose second memory are F_SRM's keys and values


class TWGTMNetwork(nn.Module):
    """All that TWGTM trains: the UNet, the semantic abstraction module and the spatial refinement module."""

    def __init__(self, unet: UNet2DConditionModel, semantic: nn.Module, spatial: SpatialRefinement | None, fusion: Fusion) -> None:
        """Build around a UNet whose input channels are in this paper's order, see `keep_mask_last`.

        Args:
            unet: noise, condition and mask in, noise out.
            semantic: gives F_QF from CLIP's tokens and the encoded prompt.
            spatial: gives F_SRM; None is Table 4's variant 1.
            fusion: where F_SRM enters.
        """
        super().__init__()
        self.unet, self.semantic, self.spatial, self.fusion = unet, semantic, spatial, fusion
        self._self_attention = attention_layers(unet, "attn1")  # plain dicts: the layers are already parts of the UNet
        self._cross_attention = attention_layers(unet, "attn2")
        widths = scale_widths(unet)
        self._scales = {name: scale_of(name, unet) for name in (*self._self_attention, *self._cross_attention)}
        for layers, kinds in (
            (self._self_attention, {"extended": ExtendedSelfAttention, "joined": JoinedFeatures}),
            (self._cross_attention, {"ip_adapter": SpatialPromptAttention}),
        ):
            for name, attn in layers.items():
                kind = None if spatial is None else kinds.get(fusion)
                attn.set_processor(
                    MemoryAttention(name) if kind is None else kind(name, widths[self._scales[name]], attn.to_q.out_features)
                )

    def spatial_parts(self) -> list[nn.Module]:
        """Return the modules that carry F_SRM into the UNet: they are trained in phase 2 alone."""
        if self.spatial is None:
            return []
        layers = {"ip_adapter": self._cross_attention}.get(self.fusion, self._self_attention)
        return [self.spatial.decoder, *(attn.processor for attn in layers.values())]

    def memory(self, reference: Reference) -> dict[str, Memory]:
        """Project the reference to each layer's keys and values: once per sample, for all denoising steps."""
        memory = {}
        for name, attn in (self._self_attention | self._cross_attention).items():
            carries = bool(reference.spatial) and not isinstance(attn.processor, MemoryAttention)
            spatial = attn.processor.project(attn, reference.spatial[self._scales[name]]) if carries else None
            if name in self._cross_attention:
                memory[name] = Memory(project(attn, reference.semantic), spatial)
            elif spatial is not None:
                memory[name] = Memory(spatial)
        return memory

    def forward(self, noisy: Tensor, condition: Tensor, timestep: Tensor, memory: dict[str, Memory], semantic: Tensor) -> Tensor:
        """Predict the noise of both images, (B, 4, h, 2w), at (B,) timesteps.

        Args:
            noisy: Noise_t(E(h_i)), (B, 4, h, 2w).
            condition: E(h_f) and h_m, (B, 5, h, 2w).
            timestep: (B,) or one for all.
            memory: see `memory`.
            semantic: F_SAM; it only satisfies diffusers' signature, the layers attend to its projection in `memory`.
        """
        inputs = torch.cat([noisy, condition], dim=1).to(self.unet.dtype)  # I_t
        predicted = self.unet(inputs, timestep, encoder_hidden_states=semantic, cross_attention_kwargs={"memory": memory}).sample
        return predicted.float()  # type: ignore[no-any-return]  # diffusers leaves it untyped


def keep_mask_last(unet: UNet2DConditionModel) -> None:
    """Turn Stable Diffusion's inpainting input, [noise, mask, masked latents] with 1 = repaint, into [noise, latents, mask] with 1 = keep.

    The first convolution's weights are permuted, the mask's negated, and their sum is added to the bias, since w (1 - m) = w - w m. At the
    image's border, where the convolution pads with zeros, the two differ: there Stable Diffusion sees "keep" beyond it, and this UNet
    "repaint".
    """
    old = unet.conv_in
    with torch.no_grad():
        noise, mask, latents = old.weight.split([4, 1, 4], dim=1)
        old.bias += mask.sum(dim=(1, 2, 3))
        old.weight.copy_(torch.cat([noise, latents, -mask], dim=1))


def scale_widths(unet: UNet2DConditionModel) -> list[int]:
    """Return the channels of the UNet's scales that have attention on the way down, finest first: 320, 640, 1280 for Stable Diffusion."""
    return [width for width, block in zip(unet.config.block_out_channels, unet.down_blocks, strict=True) if hasattr(block, "attentions")]


def scale_of(name: str, unet: UNet2DConditionModel) -> int:
    """Return the scale of an attention layer, 0 for the finest; the middle block, coarser than the others, takes the coarsest."""
    kind, index, *_ = name.split(".")
    last = len(scale_widths(unet)) - 1
    if kind == "mid_block":
        return last
    return min(int(index) if kind == "down_blocks" else len(unet.up_blocks) - 1 - int(index), last)


def scale_heads(unet: UNet2DConditionModel) -> list[int]:
    """Return the heads of the UNet's attention at each scale, finest first."""
    blocks = [block for block in unet.down_blocks if hasattr(block, "attentions")]
    return [block.attentions[0].transformer_blocks[0].attn1.heads for block in blocks]
