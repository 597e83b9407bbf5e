"""Image files of an evaluation, and image grids."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from fashiongen.errors import UserError
from fashiongen.tasks import GalleryRow

GRID_ROWS = 12
CELL_HEIGHTS = (128, 384)


def file_name(id_: str) -> str:
    """Return the file name of a sample's image.

    Raises:
        UserError: if the id would name a hidden file or one in another folder.
    """
    if not id_ or id_.startswith(".") or any(character in id_ for character in "/\\\0"):
        raise UserError(f"the sample id {id_!r} cannot be a file name: ids must not start with a dot or contain / or \\; rename the sample")
    return f"{id_}.png"


def write_png(path: Path, image: Tensor) -> None:
    """Write a uint8 image (3, H, W) as PNG atomically.

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


def grid(rows: Sequence[GalleryRow]) -> Tensor:
    """Return one uint8 image (3, H, W) with a row per sample and a column per heading; small images are enlarged, big ones reduced.

    Images of different sizes, such as outfits with different numbers of items, are padded with white.
    """
    cells = [[_cell(image) for image in row.images.values()] for row in rows[:GRID_ROWS]]
    widths = [max(cell.shape[2] for cell in column) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        height = max(cell.shape[1] for cell in line)
        padded = [
            pad(cell, (0, width - cell.shape[2], 0, height - cell.shape[1]), value=255) for cell, width in zip(line, widths, strict=True)
        ]
        lines.append(torch.cat(padded, dim=2))
    return torch.cat(lines, dim=1)


def reduced(image: Tensor) -> Tensor:
    """Return a uint8 image (3, H, W), reduced to at most the height of a grid cell."""
    height, width = image.shape[1:]
    most = CELL_HEIGHTS[1]
    if height <= most:
        return image
    size = (most, max(1, round(width * most / height)))
    return interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0].round().to(torch.uint8)


def _cell(image: Tensor) -> Tensor:
    least, height = CELL_HEIGHTS[0], image.shape[1]
    if height < least:
        times = math.ceil(least / height)
        image = image.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
    return pad(reduced(image), (2, 2, 2, 2), value=255)
