"""Data sets: one file reads one public layout."""

from fashiongen.data.photos import Photos
from fashiongen.data.vitonhd import VITONHD

__all__ = ["VITONHD", "Photos"]
