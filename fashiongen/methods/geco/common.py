"""What CIGM and GECo share: the noise of inference, the images' size and the checks of settings."""

from __future__ import annotations

import torch
from torch import Tensor

from fashiongen.batches import to_float
from fashiongen.errors import UserError
from fashiongen.methods.geco.network import resized
from fashiongen.nn import noise


def template_noise(top_ids: list[str], seed: int, draw: int, channels: int, device: torch.device) -> Tensor:
    """Draw z of inference, (B, Z): it belongs to the top, so that two passes, and CIGM and GECo, agree."""
    return noise.normal(noise.keys(top_ids, seed, "template", draw), (channels,), device)


def prepare_images(images: Tensor | None, size: int, method: str) -> Tensor:
    """Return images (B, 3, size, size) in [-1, 1].

    Raises:
        UserError: if the dataset reads no images.
    """
    if images is None:
        raise UserError(f"{method} needs images, but the dataset reads only its lists: have it read the images too")
    return resized(to_float(images), size)


def check_settings(method: str, variant: str, **at_least_zero: float) -> None:
    """Raise a UserError that names the setting that is out of range."""
    if variant not in ("paper", "code"):
        raise UserError(f"{method}: variant: {variant}: choose `paper` or `code`")
    for name, value in at_least_zero.items():
        if not value >= 0:
            raise UserError(f"{method}: {name}: {value}: must not be below 0")
