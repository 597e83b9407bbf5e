"""TWGTM: virtual try-on and try-off by one model."""

from fashiongen.methods.twgtm.module import TWGTM

__all__ = ["TWGTM"]
