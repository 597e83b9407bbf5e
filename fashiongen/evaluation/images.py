"""Images of an evaluation: what counts as a method's result, its files, and grids for the eye."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from fashiongen.batches import Batch, TryOffBatch, to_uint8
from fashiongen.errors import UserError

GRID_ROWS = 12
GRID_COLUMNS = ("person", "masked", "prediction", "truth")
CELL_HEIGHTS = (128, 384)


def checked(method: object, outputs: object, batch: Batch) -> Tensor:
    """Return a verb's result as float32 if it is one image of the batch's size a sample.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(batch, TryOffBatch):
        raise TypeError(f"cannot tell what a method returns for a {type(batch).__name__}")
    size = (len(batch), *batch.person.shape[1:])
    if not isinstance(outputs, Tensor) or tuple(outputs.shape) != size:
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise TypeError(f"{type(method).__name__} must return images {size}, it returned {got}")
    return outputs.float()


def as_written(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) in [-1, 1] as a PNG file would give them back: floats in [0, 1], 255 steps.

    A value that is not a number stays one, so that a metric can tell.
    """
    return torch.where(images.isfinite(), to_uint8(images.nan_to_num()).float() / 255.0, torch.nan)


def image_name(id_: str) -> str:
    """Return the file name of a sample's image.

    Raises:
        UserError: if the id would name a hidden file or one in another folder.
    """
    if not id_ or id_.startswith(".") or any(character in id_ for character in "/\\\0"):
        raise UserError(f"the sample id {id_!r} cannot be a file name: ids must not start with a dot nor hold / or \\; rename the sample")
    return f"{id_}.png"


def write_png(path: Path, image: Tensor) -> None:
    """Write a uint8 image (3, H, W) as PNG, whole or not at all.

    Raises:
        UserError: if the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(temporary, format="PNG")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One sample for the eye: uint8 images (3, H, W) on the CPU, in the order of `GRID_COLUMNS`."""

    id: str
    person: Tensor
    masked: Tensor
    prediction: Tensor
    truth: Tensor


def shown(batch: Batch, prediction: Tensor, truth: Tensor | None, indices: Sequence[int]) -> list[Shown]:
    """Take the samples at `indices` out of a batch, a prediction (B, 3, H, W) in [-1, 1] and the uint8 truth (B, 3, H, W), grey if None."""
    if not isinstance(batch, TryOffBatch):
        raise TypeError(f"do not know how to show a {type(batch).__name__}")
    grey = torch.full_like(batch.person, 128)
    masked = torch.where(batch.mask, grey, batch.person)
    images = (batch.person, masked, to_uint8(prediction.nan_to_num()), grey if truth is None else truth)
    return [
        Shown(id=batch.ids[index], **{name: image[index].cpu() for name, image in zip(GRID_COLUMNS, images, strict=True)})
        for index in indices
    ]


def grid(samples: Sequence[Shown]) -> Tensor:
    """Return one uint8 image (3, H, W): a row a sample, a column a kind; tiny images are enlarged, big ones reduced."""
    rows = [torch.cat([_cell(getattr(sample, column)) for column in GRID_COLUMNS], dim=2) for sample in samples[:GRID_ROWS]]
    return torch.cat(rows, dim=1)


def _cell(image: Tensor) -> Tensor:
    least, most = CELL_HEIGHTS
    height, width = image.shape[1:]
    if height < least:
        times = math.ceil(least / height)
        image = image.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
    elif height > most:
        size = (most, max(1, round(width * most / height)))
        image = interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0].round().to(torch.uint8)
    return pad(image, (2, 2, 2, 2), value=255)
