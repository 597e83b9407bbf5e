"""ControlNet as a generator of outfits' items: the incomplete outfit is its control image."""

from fashiongen.methods.controlnet.module import ControlNet

__all__ = ["ControlNet"]
