"""Reads OpenPose's keypoints."""

import json
from pathlib import Path

import torch
from torch import Tensor

from fashiongen.data.images import Size
from fashiongen.errors import UserError


def read_openpose(path: Path, count: int, source: Size, size: Size) -> Tensor:
    """Read OpenPose's `people[0].pose_keypoints_2d`: float32 (count, 3) of x, y in pixels of `size` and confidence.

    Args:
        path: the JSON file; if it has no people, all keypoints are zero.
        count: number of keypoints.
        source: size of the image they were detected in.
        size: image size to scale them to.

    Raises:
        UserError: if the file is missing or has another format.
    """
    try:
        people = json.loads(path.read_text(encoding="utf-8"))["people"]
        flat = people[0]["pose_keypoints_2d"] if people else [0.0] * (3 * count)
        points = torch.tensor(flat, dtype=torch.float32).reshape(count, 3)
        if not points.isfinite().all():
            raise ValueError("JSON as Python reads it may hold NaN")
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        raise UserError(
            f"{path}: not an OpenPose file with people[0].pose_keypoints_2d of {count} points ({type(error).__name__})"
        ) from error
    return points * torch.tensor([size[1] / source[1], size[0] / source[0], 1.0])
