"""Polyvore-U (Lu et al., CVPR 2019) in DiFashion's copy: 26,921 training, 3,356 validation and 3,631 test outfits of 517 users."""

from typing import ClassVar

from fashiongen.data.outfits import OutfitData


class PolyvoreU(OutfitData):
    """Reads the lists of `datasets/polyvore` and images at `291x291/<item>.png` or `.jpg`, or where a user's own list says."""

    layout: ClassVar[str] = "polyvore_u"
    flat: ClassVar[tuple[str, ...]] = ("291x291",)
