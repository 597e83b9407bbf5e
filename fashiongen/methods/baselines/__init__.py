"""Baselines without gradient-based learning, which every learned method should beat."""

from fashiongen.methods.baselines.outfits import MeanHistory, NearestItem, PopularItem, RandomItem, TrueOutfit
from fashiongen.methods.baselines.ranking import ColourNeighbour, Popularity, RandomRanking, TrueRule
from fashiongen.methods.baselines.try_off import MaskedCrop, MeanGarment, NearestGarment, White
from fashiongen.methods.baselines.try_on import Agnostic, PasteGarment

__all__ = [
    "Agnostic",
    "ColourNeighbour",
    "MaskedCrop",
    "MeanGarment",
    "MeanHistory",
    "NearestGarment",
    "NearestItem",
    "PasteGarment",
    "PopularItem",
    "Popularity",
    "RandomItem",
    "RandomRanking",
    "TrueOutfit",
    "TrueRule",
    "White",
]
