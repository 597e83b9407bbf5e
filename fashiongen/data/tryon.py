"""What the try-on data sets share: pair files, and the one way in which a picture, a mask, labels or key points are read.

Sizes are (height, width) throughout. A picture whose proportions differ from the wanted size is squeezed, as the data sets' own code does.
"""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from fashiongen.errors import UserError

Size = tuple[int, int]

# What Pillow raises for a file that is cut off, damaged, huge, or no picture at all.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True, kw_only=True, slots=True)
class TryOnRow:
    """Where the parts of one sample lie; None for a part that the folder does not offer.

    Attributes:
        id: the sample's id, unique in its split.
        person: the dressed person.
        garment: the shop picture of the garment.
        garment_mask: its foreground.
        mask: the agnostic mask of the person.
        parse: the human-parse labels.
        pose: the key points.
    """

    id: str
    person: Path
    garment: Path | None = None
    garment_mask: Path | None = None
    mask: Path | None = None
    parse: Path | None = None
    pose: Path | None = None

    def files(self) -> list[Path]:
        """Return the files of the sample that are named."""
        parts = (self.person, self.garment, self.garment_mask, self.mask, self.parse, self.pose)
        return [part for part in parts if part is not None]


def read_pairs(path: Path, columns: int = 2) -> list[tuple[str, ...]]:
    """Read a pair file: one sample a line, `columns` names between blanks or tabs; blank lines are skipped.

    Raises:
        UserError: if the file is missing or not text, a line has another number of columns, or a name would leave the data set's root.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a pair file: {error}") from error
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        names = tuple(line.split())
        if not names:
            continue
        if len(names) != columns:
            raise UserError(f"{path}, line {number}: has {len(names)} columns where {columns} are wanted: {line.strip()!r}")
        for name in names:
            if leaves_root(name):
                raise UserError(f"{path}, line {number}: {name!r} leads out of the data set's folder; take the line out")
        pairs.append(names)
    return pairs


def leaves_root(name: str) -> bool:
    """Tell whether a file name from a data file is absolute or climbs out of the folder that it is meant for."""
    parts = PurePosixPath(name.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or ":" in name or "\0" in name


def open_picture(path: Path) -> Image.Image:
    """Decode a picture to RGB, turned upright by its EXIF orientation; what is transparent is put on white.

    Raises:
        UserError: if the file is missing, cut off or no picture.
    """
    try:
        with Image.open(path) as image:
            upright = _in_bytes(ImageOps.exif_transpose(image))
            if "A" in upright.getbands() or "transparency" in upright.info:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            return upright.convert("RGB")
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def picture_size(path: Path) -> Size:
    """Return the size of a picture as `open_picture` would give it, from its header alone.

    Raises:
        UserError: if the file is missing or no picture.
    """
    try:
        with Image.open(path) as image:
            lies_down = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (image.width, image.height) if lies_down else (image.height, image.width)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def picture_to_tensor(picture: Image.Image, size: Size) -> Tensor:
    """Resize an RGB picture with Pillow's antialiased bilinear filter; returns uint8 (3, H, W)."""
    resized = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def read_picture(path: Path, size: Size) -> Tensor:
    """Read a picture at `size`: uint8 (3, H, W), RGB, antialiased bilinear.

    Raises:
        UserError: if the file is missing, cut off or no picture.
    """
    return picture_to_tensor(open_picture(path), size)


def read_mask(path: Path, size: Size) -> Tensor:
    """Read a mask at `size`: bool (1, H, W), nearest neighbour, True where the grey value is at least 128.

    Raises:
        UserError: if the file is missing, cut off or no picture.
    """
    try:
        with Image.open(path) as image:
            grey = _in_bytes(image).convert("L").resize((size[1], size[0]), Image.Resampling.NEAREST)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    return torch.from_numpy(np.array(grey, dtype=np.uint8) >= 128)[None]


def read_labels(path: Path, size: Size) -> Tensor:
    """Read a label map at `size`: uint8 (H, W), nearest neighbour, the palette's indices.

    Raises:
        UserError: if the file is missing, cut off, no picture, or a colour picture without indices.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1"):
                raise UserError(f"{path}: label maps hold one index per pixel (palette or grey), this one is {image.mode}")
            labels = np.array(image.resize((size[1], size[0]), Image.Resampling.NEAREST), dtype=np.uint8)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    return torch.from_numpy(labels)


def read_openpose(path: Path, count: int, source: Size, size: Size) -> Tensor:
    """Read OpenPose's `people[0].pose_keypoints_2d`: float32 (count, 3) of x, y in pixels of `size` and confidence.

    Args:
        path: the JSON file; where it holds no people, all key points are zero.
        count: number of key points.
        source: size of the picture on which they were found.
        size: size of the picture that they are scaled to.

    Raises:
        UserError: if the file is missing or not of that form.
    """
    try:
        people = json.loads(path.read_text(encoding="utf-8"))["people"]
        flat = people[0]["pose_keypoints_2d"] if people else [0.0] * (3 * count)
        points = torch.tensor(flat, dtype=torch.float32).reshape(count, 3)
        if not points.isfinite().all():
            raise ValueError("JSON as Python reads it may hold NaN")
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        raise UserError(f"{path}: no OpenPose file with people[0].pose_keypoints_2d of {count} points ({type(error).__name__})") from error
    return points * torch.tensor([size[1] / source[1], size[0] / source[0], 1.0])


def _in_bytes(image: Image.Image) -> Image.Image:
    """Bring a grey picture of 16 bits to 8, which Pillow would cut off at 255; other pictures pass unchanged.

    Raises:
        ValueError: if the values are floats, whose range no one knows.
    """
    if image.mode == "F":
        raise ValueError("its values are floats: save it with 8 bits a channel")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))


def _unreadable(path: Path, error: BaseException) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path} is missing; restore the file or take its line out of the pair file")
    detail = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path} is cut off, damaged or no picture ({detail}); replace the file or take its line out of the pair file")
