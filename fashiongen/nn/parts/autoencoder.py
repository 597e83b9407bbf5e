"""The variational autoencoder (`vae`): images to latents and back."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from fashiongen.nn.parts import loading

PIXELS_AT_ONCE = 2**22


class LatentCodec(nn.Module):
    """A frozen AutoencoderKL with the scaling of its latents: latents = (z - shift) * scaling.

    Images are (B, 3, H, W) in [-1, 1]; latents (B, C, H / factor, W / factor) of about unit variance.

    Attributes:
        factor: pixels per latent along each side.
        channels: C.
        scaling: the config's `scaling_factor`.
        shift: the config's `shift_factor` (SD3 has one), else 0.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        """Wrap and freeze `vae`."""
        super().__init__()
        self.vae = loading.freeze(vae)
        self.factor: int = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels: int = vae.config.latent_channels
        self.scaling: float = vae.config.scaling_factor
        self.shift: float = vae.config.shift_factor or 0.0

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """Return mean and log-variance of z, unscaled, (B, 2C, ...): float32 whatever the weights' dtype, and outside autocast."""
        parts = images.to(self.vae.dtype).split(self._at_once(*images.shape[-2:]))
        with torch.autocast(images.device.type, enabled=False):
            return torch.cat([self.vae.encode(part).latent_dist.parameters.float() for part in parts])

    def mode(self, moments: Tensor) -> Tensor:
        """Return the mode of the latents given their moments, (B, C, ...)."""
        return (moments.chunk(2, dim=1)[0] - self.shift) * self.scaling

    def encode(self, images: Tensor) -> Tensor:
        """Return the mode of the latents' distribution (not a sample, so that it can be cached), float32 whatever the weights' dtype."""
        return self.mode(self.moments(images))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents to float32 images in [-1, 1], outside autocast, since bfloat16 is coarser than grey levels."""
        height, width = (side * self.factor for side in latents.shape[-2:])
        parts = (latents / self.scaling + self.shift).to(self.vae.dtype).split(self._at_once(height, width))
        with torch.autocast(latents.device.type, enabled=False):
            return torch.cat([self.vae.decode(part).sample.float() for part in parts]).clamp(-1.0, 1.0)

    @staticmethod
    def _at_once(height: int, width: int) -> int:
        """Return how many images to process at once: full-size activations take gigabytes per image."""
        return max(1, PIXELS_AT_ONCE // (height * width))


def load_codec(folder: str, dtype: torch.dtype = torch.float32, *, subfolder: str | None = "vae") -> LatentCodec:
    """Load the `vae` of a Stable-Diffusion-style folder, with weights of `dtype`; without `subfolder` a folder that is itself a VAE."""
    return LatentCodec(loading.load_part(AutoencoderKL, folder, subfolder, dtype=dtype))
