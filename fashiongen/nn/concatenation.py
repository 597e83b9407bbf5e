"""A denoiser of two images that are concatenated in latent space, without text or a second encoder (CatVTON, arXiv 2407.15886).

Shapes: B samples; an image's latents (B, 4, h, w); joined latents (B, 4, 2h, w), or (B, 4, h, 2w) if the images stand side by side.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from fashiongen.errors import UserError

Trained = Literal["self_attention", "transformers", "all"]
PARTS: dict[Trained, str] = {"self_attention": ".attn1.", "transformers": ".attentions.", "all": ""}
"""What the names of a UNet's parameters contain, by the part that is trained (CatVTON, Section 3.2)."""


class SkippedAttention(nn.Module):
    """Takes the place of a cross-attention layer and returns its input: the block still adds norm2(x) to x, as in the authors' code.

    A block without the layer would not add it, and would give another output.
    """

    def forward(self, hidden_states: Tensor, encoder_hidden_states: None = None, attention_mask: None = None) -> Tensor:
        """Return (B, N, C) unchanged."""
        return hidden_states


def remove_cross_attention(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Remove the weights of all cross-attention layers, and return the UNet; its forward pass then takes no text."""
    for name in [name for name, _ in unet.named_modules() if name.endswith(".attn2")]:
        unet.set_submodule(name, SkippedAttention())
    return unet


def train_only(unet: UNet2DConditionModel, part: Trained) -> None:
    """Require gradients of one part of a UNet alone: its self-attention layers, its transformer blocks, or all of it."""
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(PARTS[part] in name)


def check_trained(part: str, owner: str) -> None:
    """Check the setting `trained`.

    Raises:
        UserError: if there is no such part.
    """
    if part not in get_args(Trained):
        raise UserError(f"{owner}: trained: {part}: choose one of {', '.join(get_args(Trained))}")


class JoinedDenoiser(nn.Module):
    """A UNet whose input is [noisy latents | conditions] in channels, over both images at once; self-attention alone connects the two."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        """Remove the cross-attention of a pretrained `unet`."""
        super().__init__()
        self.unet = remove_cross_attention(unet)

    def forward(self, noisy: Tensor, timestep: Tensor, conditions: Tensor) -> Tensor:
        """Predict the noise in joined latents, float32.

        Args:
            noisy: (B, 4, 2h, w).
            timestep: (B,), or one for all.
            conditions: (B, C, 2h, w) as `join_conditions` returns them.
        """
        inputs = torch.cat([noisy, conditions], dim=1).to(self.unet.dtype)  # noise is added in float32, whatever the weights' dtype
        predicted = self.unet(inputs, timestep, encoder_hidden_states=None).sample
        return predicted.float()  # type: ignore[no-any-return]  # diffusers leaves it untyped


def join_conditions(first: Tensor, reference: Tensor, mask: Tensor | None, axis: int) -> Tensor:
    """Return the channels that do not change over the denoising steps, [mask 1 | latents 4], (B, 5, 2h, w); [latents 4] without a mask.

    Args:
        first: latents of the image to repaint, (B, 4, h, w).
        reference: latents of the other image, (B, 4, h, w); zero where it is dropped.
        mask: (B, 1, h, w), 1 where the first image is repainted; the reference's half is 0.
        axis: the dimension along which the images are joined: -2 (the reference stands below) or -1 (to the right).
    """
    latents = torch.cat([first, reference], dim=axis)
    if mask is None:
        return latents
    return torch.cat([torch.cat([mask, torch.zeros_like(mask)], dim=axis), latents], dim=1)


def apply_dream(noisy: Tensor, epsilon: Tensor, predicted: Tensor, alpha_bar: Tensor, detail: float) -> tuple[Tensor, Tensor]:
    """Return DREAM's noisy latents and target (arXiv 2312.00210), which correct a sample by the network's own error on it.

    With s = sqrt(1 - alpha bar) and e = s^p * (epsilon - predicted): z_t + s * e, and epsilon + e.

    Args:
        noisy: z_t, (B, ...).
        epsilon: the noise in it.
        predicted: the noise that the network predicts, without gradients.
        alpha_bar: of each sample's timestep, (B,).
        detail: p; the larger, the more is left as it is at small timesteps, which preserves detail.
    """
    deviation = (1.0 - alpha_bar).sqrt().view(-1, *[1] * (noisy.ndim - 1))
    correction = deviation**detail * (epsilon - predicted)
    return noisy + deviation * correction, epsilon + correction
