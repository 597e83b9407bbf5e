"""MGCM: compatibility by likeness to the top and to a generated template."""

from fashiongen.methods.mgcm.module import MGCM

__all__ = ["MGCM"]
