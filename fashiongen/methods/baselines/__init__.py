"""Baselines without gradient-based learning, which every learned method should beat."""

from fashiongen.methods.baselines.ranking import ColourNeighbour, Popularity, RandomRanking, TrueRule
from fashiongen.methods.baselines.try_off import MaskedCrop, MeanGarment, NearestGarment, White

__all__ = ["ColourNeighbour", "MaskedCrop", "MeanGarment", "NearestGarment", "Popularity", "RandomRanking", "TrueRule", "White"]
