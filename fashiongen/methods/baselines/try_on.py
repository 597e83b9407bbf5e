"""Baselines of virtual try-on: the shop image stretched into the mask, and the person left grey."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fashiongen.batches import TryOnBatch, to_float
from fashiongen.methods.base import Method
from fashiongen.nn.crop import bounding_boxes, stretch_into


class PasteGarment(Method):
    """Stretches the shop image into the mask's bounding box and shows it inside the mask."""

    name: ClassVar[str] = "paste_garment"
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})

    def try_on(self, batch: TryOnBatch) -> Tensor:
        """Return (B, 3, H, W) in [-1, 1]: the photo outside the mask, the shop image inside it, its white background included."""
        garment = stretch_into(to_float(batch.garment), bounding_boxes(batch.mask))
        return torch.where(batch.mask, garment, to_float(batch.agnostic)).clamp(-1.0, 1.0)


class Agnostic(Method):
    """Returns the agnostic person: what SSIM rewards without any garment."""

    name: ClassVar[str] = "agnostic"
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})

    def try_on(self, batch: TryOnBatch) -> Tensor:
        """Return (B, 3, H, W) in [-1, 1]: the photo with mid-grey inside the mask."""
        return to_float(batch.agnostic)
