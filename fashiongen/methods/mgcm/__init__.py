"""MGCM: compatibility as similarity to the top and to a generated template."""

from fashiongen.methods.mgcm.module import MGCM

__all__ = ["MGCM"]
