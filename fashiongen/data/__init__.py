"""Datasets: one file reads one public layout."""

from fashiongen.data.dresscode import DressCode
from fashiongen.data.expreduced import ExpReduced
from fashiongen.data.fashiontaobaotb import FashionTaobaoTB
from fashiongen.data.fashionvc import FashionVC
from fashiongen.data.photos import Photos
from fashiongen.data.streettryon import StreetTryOn
from fashiongen.data.vitonhd import VITONHD

__all__ = ["VITONHD", "DressCode", "ExpReduced", "FashionTaobaoTB", "FashionVC", "Photos", "StreetTryOn"]
