"""The denoiser (`unet`)."""

from __future__ import annotations

from diffusers import UNet2DConditionModel

from fashiongen.nn.parts import loading


def load_unet(folder: str) -> UNet2DConditionModel:
    """Load the `unet` of a Stable-Diffusion-style folder, in float32 and training mode."""
    unet: UNet2DConditionModel = loading.load_part(UNet2DConditionModel, folder, "unet")
    return unet.train()  # from_pretrained sets evaluation mode
