"""IGR: garment restoration with GarmNet, an image prompt and coarse-to-fine training."""

from fashiongen.methods.igr.module import IGR

__all__ = ["IGR"]
