"""Baselines of virtual try-on: the shop image stretched into the mask, and the person left grey."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torchvision.ops import roi_align

from fashiongen.batches import TryOnBatch, to_float
from fashiongen.methods.base import Method
from fashiongen.nn.crop import bounding_boxes


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


def stretch_into(images: Tensor, boxes: Tensor) -> Tensor:
    """Stretch (B, 3, H, W) images so that each fills its box (left, top, right, bottom), (B, 4) pixels: the inverse of a crop.

    Pixels outside of the box repeat the image's edge.
    """
    height, width = images.shape[-2:]
    left, top, right, bottom = boxes.to(images).unbind(dim=1)
    # The region of the image that the whole frame shows, if the box shows the image.
    across, down = width / (right - left), height / (bottom - top)
    regions = torch.stack([-left * across, -top * down, (width - left) * across, (height - top) * down], dim=1)
    indices = torch.arange(len(images), device=images.device, dtype=images.dtype)[:, None]
    rois = torch.cat([indices, regions], dim=1)
    return roi_align(images, rois, output_size=(height, width), sampling_ratio=-1, aligned=True)  # type: ignore[no-any-return]
