"""Attention processors for diffusers' UNets: recording features, joining a reference, adding an image prompt.

The reference, text and image prompt that a denoiser attends to do not change between denoising steps: their keys and values are
projected once (`project`) and passed to every step as `memory`, a dict from layer name to `Memory`. The processors define `__call__`
directly because diffusers inspects its signature.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class KeyValue(NamedTuple):
    """Projected keys and values, each (B, heads, N, d)."""

    key: Tensor
    value: Tensor


class Memory(NamedTuple):
    """What a layer attends to besides its own tokens."""

    first: KeyValue
    second: KeyValue | None = None


class RecordingAttention(AttnProcessor2_0):  # type: ignore[misc]
    """Plain attention that stores its input, (B, N, C) before self-attention, in `record` under the layer's name."""

    def __init__(self, name: str, *, attend: bool = True) -> None:
        """Record under `name`; without `attend`, return the input unchanged, for a layer whose output is not needed."""
        super().__init__()
        self.name = name
        self.attend = attend

    def __call__(  # noqa: D102  diffusers' processor protocol
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        record: dict[str, Tensor] | None = None,
    ) -> Tensor:
        if record is not None and encoder_hidden_states is None:
            record[self.name] = hidden_states
        if not self.attend:
            return hidden_states
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)  # type: ignore[no-any-return]


class JoinedSelfAttention:
    """Self-attention over [reference, own] tokens that returns only the own half (IGR eq. 4).

    The other half of the output is never computed: queries come only from the own tokens, which gives the same result.
    Without memory this is plain self-attention.
    """

    def __init__(self, name: str) -> None:
        """Use the memory of the layer `name`."""
        self.name = name

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        memory: dict[str, Memory] | None = None,
    ) -> Tensor:
        """Attend from (B, N, C) tokens to the reference's tokens and themselves; returns (B, N, C)."""
        query = heads_of(attn.to_q(hidden_states), attn.heads)
        key = heads_of(attn.to_k(hidden_states), attn.heads)
        value = heads_of(attn.to_v(hidden_states), attn.heads)
        if memory is not None and self.name in memory:
            reference = memory[self.name].first
            key = torch.cat([reference.key, key], dim=2)
            value = torch.cat([reference.value, value], dim=2)
        return output_of(attn, scaled_dot_product_attention(query, key, value))


class MemoryAttention:
    """Attention to the keys and values in `memory` under the layer's name; without them, to its own tokens."""

    def __init__(self, name: str) -> None:
        """Use the memory of the layer `name`."""
        self.name = name

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        memory: dict[str, Memory] | None = None,
    ) -> Tensor:
        """Attend from (B, N, C) tokens; returns (B, N, C)."""
        query = heads_of(attn.to_q(hidden_states), attn.heads)
        own = memory is None or self.name not in memory
        key, value = project(attn, hidden_states) if own or memory is None else memory[self.name].first
        return output_of(attn, scaled_dot_product_attention(query, key, value))


class ImagePromptAttention(nn.Module):
    """Decoupled cross-attention (IP-Adapter; IGR eq. 3): Attn(Q, K_text, V_text) + scale * Attn(Q, K_image, V_image)."""

    def __init__(self, name: str, attn: Attention, scale: float = 1.0) -> None:
        """Initialise the image prompt's projections as copies of the text's, as in IP-Adapter."""
        super().__init__()
        self.name = name
        self.scale = scale
        self.to_k_ip = nn.Linear(attn.to_k.in_features, attn.to_k.out_features, bias=False)
        self.to_v_ip = nn.Linear(attn.to_v.in_features, attn.to_v.out_features, bias=False)
        with torch.no_grad():
            self.to_k_ip.weight.copy_(attn.to_k.weight)
            self.to_v_ip.weight.copy_(attn.to_v.weight)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        memory: dict[str, Memory] | None = None,
    ) -> Tensor:
        """Attend from (B, N, C) tokens to the text and the image prompt in `memory`; returns (B, N, C)."""
        if memory is None:
            raise ValueError(f"{self.name} attends to projected text and image tokens: pass them as `memory`")
        text, image = memory[self.name]
        query = heads_of(attn.to_q(hidden_states), attn.heads)
        attended = scaled_dot_product_attention(query, text.key, text.value)
        if image is not None:
            attended = attended + self.scale * scaled_dot_product_attention(query, image.key, image.value)
        return output_of(attn, attended)


def project(attn: Attention, tokens: Tensor) -> KeyValue:
    """Project (B, N, C) tokens with a layer's key and value weights."""
    return KeyValue(heads_of(attn.to_k(tokens), attn.heads), heads_of(attn.to_v(tokens), attn.heads))


def project_image_prompt(attn: Attention, tokens: Tensor) -> KeyValue:
    """Project (B, N, C) image-prompt tokens with the layer's image-prompt weights."""
    processor = attn.processor
    return KeyValue(heads_of(processor.to_k_ip(tokens), attn.heads), heads_of(processor.to_v_ip(tokens), attn.heads))


def join(first: dict[str, Memory], second: dict[str, Memory]) -> dict[str, Memory]:
    """Concatenate two memories along the batch, for guidance in one pass; a `first` of batch size one is used for all samples."""

    def stack(one: KeyValue, other: KeyValue) -> KeyValue:
        return KeyValue(*(torch.cat([a.expand(len(b), *a.shape[1:]), b]) for a, b in zip(one, other, strict=True)))

    joined = {}
    for name, (one, image_one) in first.items():
        other, image_other = second[name]
        image = None if image_one is None or image_other is None else stack(image_one, image_other)
        joined[name] = Memory(stack(one, other), image)
    return joined


def repeat(memory: dict[str, Memory], times: int) -> dict[str, Memory]:
    """Repeat the keys and values of B samples `times` times along the batch."""

    def of(pair: KeyValue) -> KeyValue:
        return KeyValue(*(part.repeat(times, 1, 1, 1) for part in pair))

    return {name: Memory(of(one), None if other is None else of(other)) for name, (one, other) in memory.items()}


def attention_layers(unet: nn.Module, kind: str) -> dict[str, Attention]:
    """Return a UNet's attention layers by name; `kind` is "attn1" (self-attention) or "attn2" (cross-attention)."""
    return {name: module for name, module in unet.named_modules() if isinstance(module, Attention) and name.endswith(kind)}


def image_prompt_state(projection: nn.Module, unet: nn.Module) -> dict[str, Tensor]:
    """Return the weights (not copies) of an image prompt, by their names in IP-Adapter's files.

    There an attention layer is identified by its index in the UNet's list of processors, where self- and cross-attention alternate.
    """
    places = {name: place for place, name in enumerate(name for name, module in unet.named_modules() if isinstance(module, Attention))}
    modules: dict[str, nn.Module] = {"image_proj.proj": projection.image_embeds, "image_proj.norm": projection.norm}  # type: ignore[dict-item]
    for name, attn in attention_layers(unet, "attn2").items():
        modules[f"ip_adapter.{places[name]}.to_k_ip"] = attn.processor.to_k_ip
        modules[f"ip_adapter.{places[name]}.to_v_ip"] = attn.processor.to_v_ip
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


def heads_of(tokens: Tensor, heads: int) -> Tensor:
    """Split (B, N, heads * d) into (B, heads, N, d)."""
    split: Tensor = tokens.unflatten(-1, (heads, -1))
    return split.transpose(1, 2)


def output_of(attn: Attention, attended: Tensor) -> Tensor:
    """Join (B, heads, N, d) and apply the layer's output projection and dropout."""
    tokens = attended.transpose(1, 2).flatten(2)
    out: Tensor = attn.to_out[1](attn.to_out[0](tokens))
    return out
