"""The denoiser (`unet`)."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import nn

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


def widen_input(unet: UNet2DConditionModel, channels: int) -> None:
    """Let the first convolution take more input channels behind its own, with weights of zero: at first they change nothing."""
    old = unet.conv_in
    wide = nn.Conv2d(old.in_channels + channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    with torch.no_grad():
        wide.weight.zero_()[:, : old.in_channels] = old.weight
        assert wide.bias is not None and old.bias is not None
        wide.bias.copy_(old.bias)
    unet.conv_in = wide
    unet.register_to_config(in_channels=wide.in_channels)


def with_linear_projections(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return the same denoiser in the layout of Stable Diffusion 2, whose transformers project by linear layers, not 1x1 convolutions."""
    linear = UNet2DConditionModel.from_config({**unet.config, "use_linear_projection": True})
    projections = (".proj_in.weight", ".proj_out.weight")
    state = {key: value.flatten(1) if key.endswith(projections) else value for key, value in unet.state_dict().items()}
    linear.load_state_dict(state)
    return linear
