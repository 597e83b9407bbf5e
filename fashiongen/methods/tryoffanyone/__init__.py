"""TryOffAnyone: virtual try-off by CatVTON's network, which denoises the garment above the person."""

from fashiongen.methods.tryoffanyone.module import TryOffAnyone

__all__ = ["TryOffAnyone"]
