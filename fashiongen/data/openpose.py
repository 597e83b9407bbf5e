"""Reads OpenPose's keypoints, of its skeletons BODY_25 and COCO (18 points)."""

import json
from pathlib import Path

import torch
from torch import Tensor

from fashiongen.data.images import Size
from fashiongen.errors import UserError

COCO_18 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
"""The COCO skeleton's points among those of BODY_25, which has the middle of the hips and the feet besides."""


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


def read_body(path: Path, source: Size, size: Size) -> Tensor:
    """Read BODY_25 keypoints, or COCO's as such: float32 (25, 3) of x, y in pixels of `size` and confidence.

    Args:
        path: the JSON file.
        source: size of the image they were detected in.
        size: image size to scale them to.

    Raises:
        UserError: if the file is missing or has another format.
    """
    try:
        return read_openpose(path, 25, source, size)
    except UserError:
        points = torch.zeros(25, 3)
        try:
            points[list(COCO_18)] = read_openpose(path, 18, source, size)
        except UserError as error:
            raise UserError(str(error).replace("18 points", "25 or 18 points")) from error
        return points
