"""Baselines without gradient-based learning, which every learned method should beat."""

from fashiongen.methods.baselines.ranking import ColourNeighbour, Popularity, RandomRanking, TrueRule
from fashiongen.methods.baselines.try_off import MaskedCrop, MeanGarment, NearestGarment, White
from fashiongen.methods.baselines.try_on import Agnostic, PasteGarment

__all__ = [
    "Agnostic",
    "ColourNeighbour",
    "MaskedCrop",
    "MeanGarment",
    "NearestGarment",
    "PasteGarment",
    "Popularity",
    "RandomRanking",
    "TrueRule",
    "White",
]
