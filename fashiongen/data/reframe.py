"""Reframes a person whose garment is too large or small: scales around the garment, crops or pads."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fashiongen.batches import Batch
from fashiongen.data.images import Size

AnyBatch = TypeVar("AnyBatch", bound=Batch)


def reframe(sample: AnyBatch, zoom: float) -> AnyBatch:
    """Scale the person around the mask's centre, in a frame of the same size; the area outside the photo is white and unmasked.

    The fields `person`, `mask`, `parse` and `pose` are transformed together, if present; keypoints that leave the frame get
    confidence 0. Other fields, such as the shop image, do not change.

    Args:
        sample: a batch of one with a person and a mask.
        zoom: above 1 crops and enlarges, below 1 shrinks and pads.
    """
    values: dict[str, Any] = {field.name: getattr(sample, field.name) for field in fields(sample)}
    height, width = values["person"].shape[-2:]
    masked = values["mask"][0, 0].nonzero().float()
    middle = (masked.amin(dim=0) + masked.amax(dim=0) + 1) / 2 if len(masked) else torch.tensor([height / 2, width / 2])
    frame = _Frame(height, width, zoom, float(middle[0]), float(middle[1]))
    moves: dict[str, Callable[[Tensor], Tensor]] = {
        "person": lambda person: frame.move(person, 255, smooth=True),
        "mask": lambda mask: frame.move(mask.to(torch.uint8), 0, smooth=False).bool(),
        "parse": lambda parse: frame.move(parse[:, None], 0, smooth=False)[:, 0],
        "pose": frame.move_points,
    }
    moved: dict[str, Any] = {name: move(values[name]) for name, move in moves.items() if values.get(name) is not None}
    return replace(sample, **moved)


@dataclass(frozen=True)
class _Frame:
    """A frame scaled around the fixed point (y, x)."""

    height: int
    width: int
    zoom: float
    y: float
    x: float

    def _box(self, factor: float) -> tuple[int, int, int, int]:
        """Return top, left, height and width of the frame scaled by `factor` <= 1 about the point, in whole pixels inside the frame."""
        height, width = max(1, round(self.height * factor)), max(1, round(self.width * factor))
        top, left = round(self.y * (1 - factor)), round(self.x * (1 - factor))
        return min(top, self.height - height), min(left, self.width - width), height, width

    def move(self, image: Tensor, fill: int, *, smooth: bool) -> Tensor:
        """Scale uint8 images (1, C, H, W), antialiased bilinear if `smooth`, else nearest neighbour."""
        if self.zoom >= 1:
            top, left, height, width = self._box(1 / self.zoom)
            return _resize(image[..., top : top + height, left : left + width], (self.height, self.width), smooth)
        top, left, height, width = self._box(self.zoom)
        moved = torch.full_like(image, fill)
        moved[..., top : top + height, left : left + width] = _resize(image, (height, width), smooth)
        return moved

    def move_points(self, points: Tensor) -> Tensor:
        """Transform keypoints (1, K, 3)."""
        if self.zoom >= 1:
            top, left, height, width = self._box(1 / self.zoom)
            offset, scale = torch.tensor([left, top]), torch.tensor([self.width / width, self.height / height])
            moved = (points[..., :2] - offset) * scale
        else:
            top, left, height, width = self._box(self.zoom)
            moved = points[..., :2] * torch.tensor([width / self.width, height / self.height]) + torch.tensor([left, top])
        inside = ((moved >= 0) & (moved < torch.tensor([self.width, self.height]))).all(dim=-1, keepdim=True)
        return torch.cat([moved, points[..., 2:] * inside], dim=-1)


def _resize(image: Tensor, size: Size, smooth: bool) -> Tensor:
    if not smooth:
        return interpolate(image.float(), size, mode="nearest-exact").to(torch.uint8)
    return interpolate(image.float(), size, mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)
