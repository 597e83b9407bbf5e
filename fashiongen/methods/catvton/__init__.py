"""CatVTON: virtual try-on by a UNet that denoises the person above the garment, without text or a second encoder."""

from fashiongen.methods.catvton.module import CatVTON, CatVTONMaskFree

__all__ = ["CatVTON", "CatVTONMaskFree"]
