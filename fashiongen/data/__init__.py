"""Datasets: one file reads one public layout.

The names below are for type checkers. Other datasets are found through their modules, so `fashiongen.data.NAME` works for them too.
"""

from typing import TYPE_CHECKING

from fashiongen.data.base import FashionData, layouts
from fashiongen.data.dresscode import DressCode
from fashiongen.data.expreduced import ExpReduced
from fashiongen.data.fashiontaobaotb import FashionTaobaoTB
from fashiongen.data.fashionvc import FashionVC
from fashiongen.data.ifashion import IFashion
from fashiongen.data.photos import Photos
from fashiongen.data.polyvoreu import PolyvoreU
from fashiongen.data.streettryon import StreetTryOn
from fashiongen.data.vitonhd import VITONHD

__all__ = [
    "VITONHD",
    "DressCode",
    "ExpReduced",
    "FashionData",
    "FashionTaobaoTB",
    "FashionVC",
    "IFashion",
    "Photos",
    "PolyvoreU",
    "StreetTryOn",
    "layouts",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> type[FashionData]:
        """Find a dataset of this package by the name of its class."""
        for cls in layouts().values() if name[:1].isupper() else ():
            if cls.__name__ == name and cls.__module__.startswith(f"{__name__}."):
                return cls
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
