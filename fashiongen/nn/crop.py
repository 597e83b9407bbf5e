"""Crops a batch of images, each sample to its own region, without a loop."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align


def bounding_boxes(mask: Tensor) -> Tensor:
    """Return the boxes (left, top, right, bottom) of (B, 1, H, W) bool masks, (B, 4) pixels; an empty mask gives the whole image."""
    height, width = mask.shape[-2:]
    rows, columns = mask[:, 0].any(dim=2), mask[:, 0].any(dim=1)
    top, bottom = _ends(rows)
    left, right = _ends(columns)
    box = torch.stack([left, top, right, bottom], dim=1).float()
    whole = torch.tensor([0.0, 0.0, width, height], device=mask.device)
    return torch.where(rows.any(dim=1)[:, None], box, whole)


def crop_and_resize(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop (B, C, H, W) float images to their (B, 4) boxes and resize to (B, C, *size), averaging when shrinking."""
    indices = torch.arange(len(images), device=images.device, dtype=images.dtype)[:, None]
    rois = torch.cat([indices, boxes.to(images)], dim=1)
    return roi_align(images, rois, output_size=size, sampling_ratio=-1, aligned=True)  # type: ignore[no-any-return]


def cut_out(images: Tensor, mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Show only what (B, 3, H, W) images in [0, 1] show inside (B, 1, H, W) masks: cropped to the masks' boxes, mid-grey outside of them.

    The classifier of worn garments reads photos of people this way.
    """
    return crop_and_resize(images.where(mask, torch.full_like(images[:, :1], 0.5)), bounding_boxes(mask), size)


def stretch_into(images: Tensor, boxes: Tensor) -> Tensor:
    """Stretch (B, 3, H, W) images so that each fills its box (left, top, right, bottom), (B, 4) pixels: the inverse of a crop.

    Pixels outside of the box are 0, but for the image's edge, which fades over one pixel.
    """
    height, width = images.shape[-2:]
    left, top, right, bottom = boxes.to(images).unbind(dim=1)
    # The region of the image that the whole frame shows, if the box shows the image.
    across, down = width / (right - left), height / (bottom - top)
    regions = torch.stack([-left * across, -top * down, (width - left) * across, (height - top) * down], dim=1)
    indices = torch.arange(len(images), device=images.device, dtype=images.dtype)[:, None]
    rois = torch.cat([indices, regions], dim=1)
    return roi_align(images, rois, output_size=(height, width), sampling_ratio=-1, aligned=True)  # type: ignore[no-any-return]


def _ends(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and one past the last True of (B, N), each (B,)."""
    first = occupied.int().argmax(dim=1)
    last = occupied.shape[1] - occupied.flip(1).int().argmax(dim=1)
    return first, last
