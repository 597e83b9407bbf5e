"""The denoiser (`unet`)."""

from __future__ import annotations

from diffusers import UNet2DConditionModel

from fashiongen.errors import UserError
from fashiongen.nn.parts import loading


def load_unet(folder: str) -> UNet2DConditionModel:
    """Load the `unet` of a Stable-Diffusion-style folder, in float32 and training mode."""
    unet: UNet2DConditionModel = loading.load_part(UNet2DConditionModel, folder, "unet")
    return unet.train()  # from_pretrained sets evaluation mode


def load_inpainting_unet(folder: str) -> UNet2DConditionModel:
    """Load the `unet` of a Stable Diffusion inpainting folder: 9 input channels, [noise 4, mask 1 (1 = repaint), masked latents 4].

    Raises:
        UserError: if it cannot be loaded or has another number of input channels.
    """
    unet = load_unet(folder)
    if unet.config.in_channels != 9:
        raise UserError(
            f"pretrained: {folder}: its UNet takes {unet.config.in_channels} channels, not the 9 of Stable Diffusion's inpainting"
        )
    return unet
