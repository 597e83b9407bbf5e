"""IGR's networks in pure torch: GarmNet, the image prompt and the denoiser with its garment fusion blocks (Section 3.2, Figure 3).

Shapes: B samples; latents (B, 4, h, w) with h = H / 8 for Stable Diffusion; text (B, L, C); image embeddings (B, D).
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import ImageProjection
from torch import Tensor, nn

from fashiongen.checkpoints import check_fit
from fashiongen.nn.attention import (
    ImagePromptAttention,
    JoinedSelfAttention,
    Memory,
    RecordingAttention,
    attention_layers,
    image_prompt_state,
    project,
    project_image_prompt,
)


class Conditions(NamedTuple):
    """The denoiser's conditions: text (B, L, C), image embeddings (B, D) that become F_ll, and F_hl by layer, each (B, N, C)."""

    text: Tensor
    image: Tensor
    garment: dict[str, Tensor]


class IGRNetwork(nn.Module):
    """GarmDenoiser, GarmNet and the image prompt's projection: all that IGR trains."""

    def __init__(self, unet: UNet2DConditionModel, image_dim: int, image_tokens: int, garmnet: bool, garmnet_timestep: int) -> None:
        """Build around a pretrained `unet`, which becomes the denoiser.

        Args:
            unet: epsilon-predicting denoiser with 4 input channels.
            image_dim: D, the size of the image encoder's embedding.
            image_tokens: number of tokens per image embedding (IP-Adapter: 4).
            garmnet: False is the paper's ablation "w/o GarmNet" (Table 2).
            garmnet_timestep: the fixed timestep at which GarmNet runs, in training and in sampling.
        """
        super().__init__()
        self.garmnet_timestep = garmnet_timestep
        self.garmnet = build_garmnet(unet) if garmnet else None
        self.image_projection = ImageProjection(image_dim, unet.config.cross_attention_dim, image_tokens)
        self.denoiser = unet
        # Plain dicts: the layers are already registered as parts of the denoiser.
        self._self_attention = attention_layers(unet, "attn1")
        self._cross_attention = attention_layers(unet, "attn2")
        for name, attn in self._self_attention.items():
            attn.set_processor(JoinedSelfAttention(name))
        for name, attn in self._cross_attention.items():
            attn.set_processor(ImagePromptAttention(name, attn))

    def load_image_prompt(self, state: dict[str, Tensor], source: str) -> None:
        """Initialise the image prompt with IP-Adapter's weights in their public layout (`image_proj.*`, `ip_adapter.*`)."""
        placed = image_prompt_state(self.image_projection, self.denoiser)
        check_fit(placed, state, source=source, name="an IP-Adapter for this denoiser")
        with torch.no_grad():
            for key, value in placed.items():
                value.copy_(state[key])

    def garment_features(self, person: Tensor, mask: Tensor, text: Tensor) -> dict[str, Tensor]:
        """Return F_hl: GarmNet's hidden states before each self-attention, by layer, each (B, N, C).

        Args:
            person: E(p), (B, 4, h, w).
            mask: the garment's region resized to the latents, (B, 1, h, w) in {0, 1}.
            text: (B, L, C).
        """
        if self.garmnet is None:
            return {}
        features: dict[str, Tensor] = {}
        five_channels = torch.cat([person, mask], dim=1).to(self.garmnet.dtype)
        self.garmnet(five_channels, self.garmnet_timestep, encoder_hidden_states=text, cross_attention_kwargs={"record": features})
        return features

    def memory(self, conditions: Conditions) -> dict[str, Memory]:
        """Project the conditions to each layer's keys and values: once per sample, for all denoising steps."""
        image_tokens = self.image_projection(conditions.image)
        memory = {}
        if conditions.garment:
            memory = {name: Memory(project(attn, conditions.garment[name])) for name, attn in self._self_attention.items()}
        for name, attn in self._cross_attention.items():
            memory[name] = Memory(project(attn, conditions.text), project_image_prompt(attn, image_tokens))
        return memory

    def forward(self, noisy: Tensor, timestep: Tensor, memory: dict[str, Memory], text: Tensor) -> Tensor:
        """Predict the noise in (B, 4, h, w) latents at (B,) timesteps; eqs. 3 and 4 happen in the attention layers.

        `text` only satisfies diffusers' signature: the layers attend to its projection in `memory`.
        """
        noisy = noisy.to(self.denoiser.dtype)  # noise is added in float32, whatever the weights' dtype
        predicted = self.denoiser(noisy, timestep, encoder_hidden_states=text, cross_attention_kwargs={"memory": memory}).sample
        return predicted.float()  # type: ignore[no-any-return]


def build_garmnet(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Copy the denoiser, add an input channel for the mask with zero weights, and record the input of each self-attention.

    Layers after the last recorded input get no gradient and are frozen; their attention, at the highest resolution, is not computed.
    """
    garmnet = copy.deepcopy(unet)
    old = garmnet.conv_in
    new = nn.Conv2d(
        old.in_channels + 1, old.out_channels, old.kernel_size, padding=old.padding, device=old.weight.device, dtype=old.weight.dtype
    )
    new.bias = old.bias
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
    garmnet.conv_in = new
    garmnet.register_to_config(in_channels=old.in_channels + 1)
    tail = modules_after_last_self_attention_input(garmnet)
    for name, attn in (attention_layers(garmnet, "attn1") | attention_layers(garmnet, "attn2")).items():
        attn.set_processor(RecordingAttention(name, attend=attn not in tail))
    for module in tail:
        module.requires_grad_(False)
    return garmnet


def modules_after_last_self_attention_input(unet: UNet2DConditionModel) -> list[nn.Module]:
    """Return the modules that only run after the last self-attention's input, in the order of the forward pass."""
    index = max(index for index, block in enumerate(unet.up_blocks) if hasattr(block, "attentions"))
    transformer = unet.up_blocks[index].attentions[-1]
    block = transformer.transformer_blocks[-1]
    upsamplers = unet.up_blocks[index].upsamplers or []
    return [
        *(block.attn1, block.norm2, block.attn2, block.norm3, block.ff, transformer.proj_out),
        *upsamplers,
        *unet.up_blocks[index + 1 :],
        *(unet.conv_norm_out, unet.conv_out),
    ]


def drop(conditions: Conditions, mask: Tensor, null_text: Tensor, names: frozenset[str]) -> Conditions:
    """Replace the named conditions with their null values in the samples where `mask` is False.

    The null values are the empty prompt's embedding, a zero image embedding (as in IP-Adapter) and zero GarmNet features. The zero
    features stay in the joined attention as zero keys and values (the projections have no bias).

    Args:
        conditions: those of B samples.
        mask: (B,) bool, see `fashiongen.nn.guidance.condition_mask`.
        null_text: (1, L, C).
        names: which of "text", "image", "garment" are dropped, together.
    """
    mask = mask.to(conditions.text.device)
    text = torch.where(mask[:, None, None], conditions.text, null_text) if "text" in names else conditions.text
    image = conditions.image * mask[:, None] if "image" in names else conditions.image
    garment = (
        {name: features * mask[:, None, None] for name, features in conditions.garment.items()}
        if "garment" in names
        else conditions.garment
    )
    return Conditions(text, image, garment)


def repeat(conditions: Conditions, times: int) -> Conditions:
    """Repeat the conditions of B samples `times` times along the batch."""
    if times == 1:
        return conditions
    garment = {name: features.repeat(times, 1, 1) for name, features in conditions.garment.items()}
    return Conditions(conditions.text.repeat(times, 1, 1), conditions.image.repeat(times, 1), garment)
