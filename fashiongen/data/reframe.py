"""Reframes a person or a shop image whose garment is too large or small: scales around the garment, crops or pads."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fashiongen.batches import Batch
from fashiongen.data.images import Size
from fashiongen.tasks.one_image import grey_out

AnyBatch = TypeVar("AnyBatch", bound=Batch)

# A pixel belongs to the garment of a shop image if it differs this much, of 255, from the background: VITON-HD's is a flat grey.
DIFFERENCE = 12


class Zooms(NamedTuple):
    """The factors by which a sample's person and its shop image are scaled; 1 leaves every bit as it is."""

    person: float = 1.0
    garment: float = 1.0


def reframe(sample: AnyBatch, zoom: float) -> AnyBatch:
    """Scale the person around the mask's centre, in a frame of the same size; the area outside the photo is white and unmasked.

    The fields `person`, `mask`, `parse` and `pose` are transformed together, if present; keypoints that leave the frame get
    confidence 0. The `agnostic` image of a try-on is the transformed person with mid-grey in the transformed mask, as if it had been read
    so. Other fields, such as the shop image, do not change.

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
    if "agnostic" in values:
        moved["agnostic"] = grey_out(moved["person"], moved["mask"])
    return replace(sample, **moved)


def reframe_garment(sample: AnyBatch, zoom: float) -> AnyBatch:
    """Scale the shop image, in a frame of the same size, with the garment in the middle as far as the image reaches.

    The fields `garment` and `garment_mask` are transformed together, if present; the area outside the image has the colour of its
    background and is no garment. Other fields do not change.

    Args:
        sample: a batch of one with a shop image.
        zoom: above 1 crops and enlarges, below 1 shrinks and pads.
    """
    values: dict[str, Any] = {field.name: getattr(sample, field.name) for field in fields(sample)}
    garment, mask = values["garment"], values.get("garment_mask")
    height, width = garment.shape[-2:]
    found = (foreground(garment[0]) if mask is None else mask[0, 0]).nonzero().float()
    middle = (found.amin(dim=0) + found.amax(dim=0) + 1) / 2 if len(found) else torch.tensor([height / 2, width / 2])
    y, x = (_fixed_point(float(centre), length, zoom) for centre, length in zip(middle, (height, width), strict=True))
    frame = _Frame(height, width, zoom, y, x)
    moved: dict[str, Any] = {"garment": frame.move(garment, background(garment[0]), smooth=True)}
    if mask is not None:
        moved["garment_mask"] = frame.move(mask.to(torch.uint8), 0, smooth=False).bool()
    return replace(sample, **moved)


def background(image: Tensor) -> Tensor:
    """Return the colour of a shop image's background, uint8 (3, 1, 1): the median of the outermost ring of (3, H, W)."""
    ring = torch.cat([image[:, [0, -1]].flatten(1), image[:, 1:-1, [0, -1]].flatten(1)], dim=1)
    return ring.median(dim=1).values[:, None, None]


def foreground(image: Tensor) -> Tensor:
    """Return which pixels of a shop image, uint8 (3, H, W), differ from its background: bool (H, W)."""
    return ((image.int() - background(image).int()).abs() > DIFFERENCE).any(dim=0)


def _fixed_point(centre: float, length: int, zoom: float) -> float:
    """Return the coordinate that scaling must leave where it is to move `centre` to the middle of `length`, as far as the image reaches."""
    factor = min(zoom, 1 / zoom)
    start = centre - length * factor / 2 if zoom >= 1 else length / 2 - centre * factor
    return min(max(start, 0.0), length * (1 - factor)) / (1 - factor)


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

    def move(self, image: Tensor, fill: int | Tensor, *, smooth: bool) -> Tensor:
        """Scale uint8 images (1, C, H, W), antialiased bilinear if `smooth`, else nearest neighbour."""
        if self.zoom >= 1:
            top, left, height, width = self._box(1 / self.zoom)
            return _resize(image[..., top : top + height, left : left + width], (self.height, self.width), smooth)
        top, left, height, width = self._box(self.zoom)
        moved = torch.empty_like(image)
        moved[:] = fill
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
