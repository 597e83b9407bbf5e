"""Colour error: CIEDE2000 between prediction and truth."""

import math
from typing import Literal

import torch
from torch import Tensor

from fashiongen.metrics.base import PairMetric, Region, masked_mean

# IEC 61966-2-1: linear sRGB to CIE XYZ, and the white point D65 of the 2 degree observer.
RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)
# Hues this close to opposite (in radians), where the formula is discontinuous, count as opposite; Sharma's test data require it.
OPPOSITE = 1e-6


class ColourError(PairMetric):
    """CIEDE2000 colour difference per pixel; range [0, about 120], lower is better, 1 is about just noticeable; no extractor.

    Per sample the median (for an even count the lower one), robust to shifted edges, or the mean over pixels; by default only of the true
    garment's foreground, so that a matching white background earns nothing. Source: Sharma, Wu and Dalal 2005, equations (2) to (22), all
    weights 1.

    Degenerate input: with `foreground` a sample with an empty mask is undefined, excluded from the mean and counted; a non-finite image
    scores NaN.
    """

    higher_is_better = False

    def __init__(self, region: Region = "foreground", reduction: Literal["median", "mean"] = "median") -> None:
        """Compare the `whole` image or the truth's `foreground`, by the median or mean over pixels."""
        super().__init__()
        self.region = region
        self.reduction = reduction

    def score(self, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Return the colour difference `(B,)`."""
        errors = ciede2000(srgb_to_lab(prediction), srgb_to_lab(target))
        inside = mask[:, 0] if self.region == "foreground" and mask is not None else torch.ones_like(errors, dtype=torch.bool)
        if self.reduction == "mean":
            return masked_mean(errors, inside)
        return torch.where(inside, errors, torch.nan).flatten(1).nanmedian(dim=1).values


def srgb_to_lab(images: Tensor) -> Tensor:
    """Convert sRGB `(B, 3, H, W)` in [0, 1] to CIE L*a*b* `(B, 3, H, W)`, L* in [0, 100], white point D65."""
    images = images.clamp(0, 1)
    linear = torch.where(images <= 0.04045, images / 12.92, ((images + 0.055) / 1.055) ** 2.4)
    matrix = linear.new_tensor(RGB_TO_XYZ) / linear.new_tensor(WHITE)[:, None]
    # Multiplied and summed rather than contracted: a matrix product may run in lower precision.
    relative = (matrix[None, :, :, None, None] * linear[:, None]).sum(dim=2)
    line = relative * (29 / 6) ** 2 / 3 + 4 / 29
    x, y, z = torch.where(relative > (6 / 29) ** 3, relative.clamp(min=1e-6) ** (1 / 3), line).unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def ciede2000(lab_1: Tensor, lab_2: Tensor) -> Tensor:
    """Return the CIEDE2000 difference `(B, ...)` of L*a*b* colours `(B, 3, ...)`; numbers in comments are Sharma et al.'s equations."""
    lightness_1, a_1, b_1 = lab_1.unbind(dim=1)
    lightness_2, a_2, b_2 = lab_2.unbind(dim=1)

    stretch = 1.5 - 0.5 * _saturation((torch.hypot(a_1, b_1) + torch.hypot(a_2, b_2)) / 2)  # 1 + G: (2) to (5)
    chroma_1, chroma_2 = torch.hypot(stretch * a_1, b_1), torch.hypot(stretch * a_2, b_2)  # (6)
    turn = 2 * math.pi
    hue_1, hue_2 = (torch.remainder(torch.atan2(b, stretch * a), turn) for a, b in ((a_1, b_1), (a_2, b_2)))  # (7): in [0, 2 pi)

    # Equation (10): the hue difference in [-pi, pi], and 0 for a grey.
    grey = chroma_1 * chroma_2 == 0
    hue_difference = hue_2 - hue_1
    hue_difference = torch.where(hue_difference > math.pi + OPPOSITE, hue_difference - turn, hue_difference)
    hue_difference = torch.where(hue_difference < -math.pi - OPPOSITE, hue_difference + turn, hue_difference)
    hue_difference = torch.where(grey, torch.zeros_like(hue_difference), hue_difference)
    hue_term = 2 * (chroma_1 * chroma_2).sqrt() * torch.sin(hue_difference / 2)  # (11)

    # Equation (14): halfway along the shorter arc; for a grey the other colour's hue, which is the sum as atan2 gives a grey the hue 0.
    hue = torch.where(grey, hue_1 + hue_2, hue_1 + hue_difference / 2)
    lightness, chroma = (lightness_1 + lightness_2) / 2, (chroma_1 + chroma_2) / 2  # (12), (13)

    weight = (  # T: (15)
        1
        - 0.17 * torch.cos(hue - math.radians(30))
        + 0.24 * torch.cos(2 * hue)
        + 0.32 * torch.cos(3 * hue + math.radians(6))
        - 0.20 * torch.cos(4 * hue - math.radians(63))
    )
    degrees_from_blue = torch.rad2deg(torch.remainder(hue, turn)) - 275
    rotation = -torch.sin(math.radians(60) * torch.exp(-((degrees_from_blue / 25) ** 2))) * 2 * _saturation(chroma)  # (16), (17), (21)
    from_middle = (lightness - 50) ** 2
    lightness_part = (lightness_2 - lightness_1) / (1 + 0.015 * from_middle / (20 + from_middle).sqrt())  # (8), (18)
    chroma_part = (chroma_2 - chroma_1) / (1 + 0.045 * chroma)  # (9), (19)
    hue_part = hue_term / (1 + 0.015 * chroma * weight)  # (20)
    squared = lightness_part**2 + chroma_part**2 + hue_part**2 + rotation * chroma_part * hue_part  # (22)
    return squared.clamp(min=0).sqrt()


def _saturation(chroma: Tensor) -> Tensor:
    """Return `sqrt(C^7 / (C^7 + 25^7))`."""
    power = (chroma / 25) ** 7
    return (power / (power + 1)).sqrt()
