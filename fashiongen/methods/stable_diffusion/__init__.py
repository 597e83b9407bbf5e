"""Stable Diffusion as a generator of outfits' items: by category alone, or with the outfit and the history as further inputs."""

from fashiongen.methods.stable_diffusion.module import SDNaive, SDv2, SDv15

__all__ = ["SDNaive", "SDv2", "SDv15"]
