"""Baselines without learning by gradient: what every learnt method must beat."""

from fashiongen.methods.trivial.try_off import MaskedCrop, MeanGarment, NearestGarment, White

__all__ = ["MaskedCrop", "MeanGarment", "NearestGarment", "White"]
