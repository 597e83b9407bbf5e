"""FashionDPO: DiFashion fine-tuned by preferences between its own results, as experts score them."""

from fashiongen.methods.fashiondpo.module import FashionDPO

__all__ = ["FashionDPO"]
