"""Baselines without learning by gradient: what every learnt method must beat."""

from fashiongen.methods.baselines.ranking import ColourNeighbour, Popularity, RandomRanking, TrueRule
from fashiongen.methods.baselines.try_off import MaskedCrop, MeanGarment, NearestGarment, White

__all__ = ["ColourNeighbour", "MaskedCrop", "MeanGarment", "NearestGarment", "Popularity", "RandomRanking", "TrueRule", "White"]
