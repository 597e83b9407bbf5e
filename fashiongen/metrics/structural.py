"""Structural similarity: SSIM of whole images or of the garment alone, and MS-SSIM.

Both reward grey shapes and blank paper: claim no learning on them alone.

Both come in two published ways of computing them, whose numbers differ in the third digit and more:

- `rgb` as torchmetrics does: each RGB channel, borders reflected;
- `luma` as pyiqa does, with which TryOffDiff's authors judge: the luma 0.299 R + 0.587 G + 0.114 B rounded to 256 levels, windows wholly
  inside the image, negative covariances of a window set to 0. pyiqa is not installed here; the test holds it against scikit-image.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure, structural_similarity_index_measure

from fashiongen.errors import UserError
from fashiongen.metrics.base import PairMetric, Region, masked_mean

# Wang et al. 2003, section 3.2: the weight of each scale, finest first.
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# The shorter side in pixels from which torchmetrics can compute 1, 2, ... scales with its 11-pixel window.
SHORTEST_SIDES = (11, 22, 44, 99, 176)
WINDOW, SIGMA = 11, 1.5

Channels = Literal["rgb", "luma"]


class SSIM(PairMetric):
    """Structural similarity; range [-1, 1], higher is better; no extractor.

    Source: Wang et al. 2004, equation (13), with a Gaussian window of 11 pixels and sigma 1.5. `whole` is the mean over pixels and
    channels; `foreground` the mean of the same map inside the mask of the true garment (windows at its edge look beyond it). The two are
    different metrics: name which one is reported.

    Degenerate input: with `foreground` a sample with an empty mask has no value, is left out of the mean and counted; a non-finite image
    scores NaN. Two constant images are compared by their luminance alone.
    """

    higher_is_better = True

    def __init__(self, region: Region = "whole", channels: Channels = "rgb") -> None:
        """Judge the `whole` image, or the `foreground` of the truth.

        Args:
            region: of `rgb` alone.
            channels: `rgb` or `luma`, see the module.
        """
        super().__init__()
        if channels == "luma" and region == "foreground":
            raise UserError("SSIM(channels=luma) judges whole images: use region=whole, or channels=rgb")
        self.region = region
        self.channels = channels

    def score(self, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Return the similarity `(B,)` of images with at least 6 pixels a side (`luma`: 11)."""
        if self.channels == "luma":
            return luma_ssim(luma(prediction).round(), luma(target).round())[0]
        _, similarity = structural_similarity_index_measure(prediction, target, data_range=1.0, reduction="none", return_full_image=True)
        if self.region == "foreground" and mask is not None:
            return masked_mean(similarity.mean(dim=1), mask[:, 0])
        return similarity.mean(dim=(1, 2, 3))


class MSSSIM(PairMetric):
    """Multi-scale structural similarity of whole images; range [0, 1], higher is better; no extractor.

    Source: Wang et al. 2003, equation (7), with the settings of SSIM, 2x2 mean pooling between scales, and negative factors set to 0.

    Number of scales: the paper's five need a shorter side of at least 176 pixels. Smaller images get the first 4, 3, 2 or 1 scales, from
    99, 44, 22 or 11 pixels on, with those weights divided by their sum. Numbers from different numbers of scales are not comparable
    although the metric's name is the same: give `betas` to fix them.

    Degenerate input: a non-finite image scores NaN.
    """

    higher_is_better = True

    def __init__(self, betas: Sequence[float] | None = None, channels: Channels = "rgb") -> None:
        """Weigh the scales.

        Args:
            betas: a weight for each scale, finest first; by default as many of the paper's as the image has room for.
            channels: `rgb` or `luma`, see the module.
        """
        super().__init__()
        self.channels = channels
        self.betas = None if betas is None else tuple(betas)

    def score(self, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Return the similarity `(B,)`."""
        side = min(target.shape[2:])
        betas = self.betas or betas_for(side)
        if side < SHORTEST_SIDES[min(len(betas), len(SHORTEST_SIDES)) - 1]:
            raise UserError(f"MSSSIM(betas={list(betas)}) needs a shorter side of more than {side} pixels: leave betas out, or give fewer")
        if self.channels == "luma":
            return luma_ms_ssim(luma(prediction).round(), luma(target).round(), betas)
        return multiscale_structural_similarity_index_measure(prediction, target, data_range=1.0, reduction="none", betas=betas)


def luma(images: Tensor) -> Tensor:
    """Return the luma of BT.601 of images `(B, 3, H, W)` in [0, 1]: `(B, 1, H, W)` float64 in [0, 255], not rounded."""
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64, device=images.device).view(1, 3, 1, 1)
    return (images.double() * weights).sum(dim=1, keepdim=True) * 255


def luma_ssim(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return SSIM and its contrast-structure term, each `(B,)`, of luma `(B, 1, H, W)` in [0, 255]."""
    positions = torch.arange(WINDOW, dtype=prediction.dtype, device=prediction.device) - WINDOW // 2
    gaussian = torch.exp(-(positions**2) / (2 * SIGMA**2))
    gaussian = gaussian / gaussian.sum()

    def local_mean(values: Tensor) -> Tensor:
        return functional.conv2d(functional.conv2d(values, gaussian.view(1, 1, -1, 1)), gaussian.view(1, 1, 1, -1))

    c_1, c_2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_1, mean_2 = local_mean(prediction), local_mean(target)
    variances = local_mean(prediction**2) - mean_1**2 + local_mean(target**2) - mean_2**2
    covariance = local_mean(prediction * target) - mean_1 * mean_2
    structure = ((2 * covariance + c_2) / (variances + c_2)).clamp(min=0)
    similarity = (2 * mean_1 * mean_2 + c_1) / (mean_1**2 + mean_2**2 + c_1) * structure
    return similarity.mean(dim=(1, 2, 3)), structure.mean(dim=(1, 2, 3))


def luma_ms_ssim(prediction: Tensor, target: Tensor, betas: Sequence[float]) -> Tensor:
    """Return MS-SSIM `(B,)` of luma `(B, 1, H, W)` in [0, 255]: the structure of each scale, and the SSIM of the last, to their powers."""
    product = torch.ones(len(prediction), dtype=prediction.dtype, device=prediction.device)
    for scale, beta in enumerate(betas, start=1):
        similarity, structure = luma_ssim(prediction, target)
        product = product * (similarity if scale == len(betas) else structure) ** beta
        padding = [side % 2 for side in target.shape[2:]]
        prediction, target = (functional.avg_pool2d(image, kernel_size=2, padding=padding) for image in (prediction, target))
    return product


def betas_for(side: int) -> tuple[float, ...]:
    """Return the weights of as many scales as images with this shorter side have room for: the paper's five, or fewer that sum to one.

    Raises:
        UserError: if there is room for none.
    """
    n_scales = sum(side >= shortest for shortest in SHORTEST_SIDES)
    if n_scales == 0:
        raise UserError(f"MSSSIM needs images of at least {SHORTEST_SIDES[0]} pixels a side, got {side}: leave it out at this size")
    if n_scales == len(BETAS):
        return BETAS
    return tuple(beta / sum(BETAS[:n_scales]) for beta in BETAS[:n_scales])
