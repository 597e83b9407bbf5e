"""The holes of TWGTM's try-off: the flat garment itself (phase 1), squares grown at random (phase 2), a rectangle, or everything."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, max_pool2d

from fashiongen.nn import noise
from fashiongen.nn.crop import bounding_boxes

WHITE = 0.92
"""A shop image's background is brighter than this in every channel, in [-1, 1]: 245 of 255."""


def flat_mask(garment: Tensor) -> Tensor:
    """Return where a shop image (B, 3, H, W) in [-1, 1] is not white, closed by 3x3 pixels: (B, 1, H, W) bool.

    The paper's "directly synthesized from the conditional input c"; used where a dataset has no masks of its shop images.
    """
    found = (garment < WHITE).any(dim=1, keepdim=True).float()
    grown = max_pool2d(found, 3, stride=1, padding=1)
    return -max_pool2d(-grown, 3, stride=1, padding=1) > 0.5


def grown_squares(mask: Tensor, growth: tuple[float, float], ids: list[str], *names: str | int) -> Tensor:
    """Return the bounding rectangles of masks (B, 1, H, W), dilated or eroded by a square of random size: (B, 1, H, W) bool.

    Args:
        mask: the flat garments' masks.
        growth: range of the growth as a share of the shorter side of the image; negative is erosion.
        ids: the samples'; with `names` they key the draw.
        names: further parts of the keys.
    """
    low, high = growth
    height, width = mask.shape[-2:]
    share = low + (high - low) * noise.uniform(noise.keys(ids, *names), mask.device)
    pixels = (share * min(height, width)).round()
    boxes = bounding_boxes(mask) + pixels[:, None] * torch.tensor([-1.0, -1.0, 1.0, 1.0], device=mask.device)
    return rectangles(boxes, height, width)


def rectangles(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return masks (B, 1, H, W) bool, True inside the boxes (left, top, right, bottom), (B, 4) pixels; at least one pixel each."""
    left, top, right, bottom = (side[:, None] for side in boxes.unbind(dim=1))
    columns, rows = (torch.arange(length, device=boxes.device)[None] for length in (width, height))
    middle_column, middle_row = (
        (first + last).div(2).clamp(0, length - 1).floor() for first, last, length in ((left, right, width), (top, bottom, height))
    )
    inside_columns = ((columns >= left) & (columns < right)) | (columns == middle_column)
    inside_rows = ((rows >= top) & (rows < bottom)) | (rows == middle_row)
    return (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]


def mask_loss(logits: Tensor, mask: Tensor, dice_weight: float, bce_weight: float) -> Tensor:
    """Return L_mask = lambda' L_dice + lambda'' L_bce (eq. 15); the mask (B, 1, H, W) is resized to the logits (B, 1, h, w)."""
    logits = logits.float()
    target = interpolate(mask.float(), size=logits.shape[-2:], mode="bilinear", antialias=True)
    found = logits.sigmoid()
    overlap, total = (found * target).sum(dim=(1, 2, 3)), (found + target).sum(dim=(1, 2, 3))
    dice = 1 - ((2 * overlap + 1) / (total + 1)).mean()
    return dice_weight * dice + bce_weight * binary_cross_entropy_with_logits(logits, target)
