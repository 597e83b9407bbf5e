"""DiFashion: items of an outfit denoised together, each conditioned on the others and on the user's history."""

from fashiongen.methods.difashion.module import DiFashion

__all__ = ["DiFashion"]
