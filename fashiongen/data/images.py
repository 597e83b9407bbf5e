"""Reads images, masks and label maps from files, in the same way for every dataset. No file is trusted.

Sizes are (height, width) throughout. An image with another aspect ratio is stretched to the size, as in the datasets' own code.
Everything is rotated upright by its EXIF orientation, so that masks and labels match what a viewer shows.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from fashiongen.errors import UserError
from fashiongen.tasks import Filter

Size = tuple[int, int]

FILTERS: dict[Filter, Image.Resampling] = {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}
"""Pillow's filters, all antialiased."""

# Raised by Pillow for a file that is truncated, damaged, huge, or not an image.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def open_image(path: Path) -> Image.Image:
    """Decode an image to RGB, rotated upright by its EXIF orientation, transparent areas on white.

    Raises:
        UserError: if the file is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            upright = _in_bytes(ImageOps.exif_transpose(image))
            if "A" in upright.getbands() or "transparency" in upright.info:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            return upright.convert("RGB")
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def image_size(path: Path) -> Size:
    """Return the size of an image as `open_image` returns it, reading only its header.

    Raises:
        UserError: if the file is missing or not an image.
    """
    try:
        with Image.open(path) as image:
            lies_down = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (image.width, image.height) if lies_down else (image.height, image.width)
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def image_to_tensor(image: Image.Image, size: Size, filter: Filter = "bilinear") -> Tensor:
    """Resize an RGB image with one of Pillow's antialiased filters; returns uint8 (3, H, W)."""
    resized = image.resize((size[1], size[0]), FILTERS[filter])
    return torch.from_numpy(np.array(resized, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def read_image(path: Path, size: Size, filter: Filter = "bilinear") -> Tensor:
    """Read an image at `size`: uint8 (3, H, W), RGB, antialiased.

    Raises:
        UserError: if the file is missing, truncated or not an image.
    """
    return image_to_tensor(open_image(path), size, filter)


def read_mask(path: Path, size: Size) -> Tensor:
    """Read a mask at `size`: bool (1, H, W), nearest neighbour, True where the grey value is at least 128.

    Raises:
        UserError: if the file is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            grey = _in_bytes(ImageOps.exif_transpose(image)).convert("L").resize((size[1], size[0]), Image.Resampling.NEAREST)
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    return torch.from_numpy(np.array(grey, dtype=np.uint8) >= 128)[None]


def mask_to_tensor(mask: NDArray[np.bool_], size: Size) -> Tensor:
    """Resize a mask (H, W) like `read_mask`: bool (1, H, W), nearest neighbour."""
    resized = Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(resized, dtype=bool))[None]


def read_labels(path: Path, size: Size) -> Tensor:
    """Read a label map at `size`: uint8 (H, W), nearest neighbour, the palette's indices.

    Raises:
        UserError: if the file is missing, truncated, not an image, or a colour image without indices.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1"):
                raise UserError(f"{path}: label maps hold one index per pixel (palette or grey), this one is {image.mode}")
            upright = ImageOps.exif_transpose(image)
            labels = np.array(upright.resize((size[1], size[0]), Image.Resampling.NEAREST), dtype=np.uint8)
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    return torch.from_numpy(labels)


def _in_bytes(image: Image.Image) -> Image.Image:
    """Convert a 16-bit grey image to 8 bits (Pillow would clip it at 255); other images pass unchanged.

    Raises:
        ValueError: if the values are floats, whose range is unknown.
    """
    if image.mode == "F":
        raise ValueError("its values are floats: save it with 8 bits per channel")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))


def unreadable(path: Path, error: BaseException) -> UserError:
    """Return the one-line error for a missing file or an unreadable image; `error` is one of `UNREADABLE`."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path} is missing; restore the file or leave it out of the data")
    detail = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path} is truncated, damaged or not an image ({detail}); replace the file or leave it out of the data")
