"""Structural similarity: SSIM of whole images or only of the garment, and MS-SSIM.

Both reward grey shapes and blank backgrounds: do not conclude from them alone that a method learns.

Both have two published variants, whose numbers differ in the third digit or more:

- `rgb` as in torchmetrics: each RGB channel, borders reflected;
- `luma` as in pyiqa, which TryOffDiff's authors use: the luma 0.299 R + 0.587 G + 0.114 B rounded to 256 levels, windows fully inside
  the image, negative covariances of a window set to 0. pyiqa is not installed here; the test compares with scikit-image.
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
# Minimum shorter side in pixels for which torchmetrics can compute 1, 2, ... scales with its 11-pixel window.
SHORTEST_SIDES = (11, 22, 44, 99, 176)
WINDOW, SIGMA = 11, 1.5

Channels = Literal["rgb", "luma"]


class SSIM(PairMetric):
    """Structural similarity; range [-1, 1], higher is better; no extractor.

    Source: Wang et al. 2004, equation (13), with a Gaussian window of 11 pixels and sigma 1.5. `whole` is the mean over pixels and
    channels; `foreground` the mean of the same map inside the mask of the true garment (windows at its edge extend beyond it). The two are
    different metrics: state which one is reported.

    Degenerate input: with `foreground` a sample with an empty mask is undefined, excluded from the mean and counted; a non-finite image
    scores NaN. Two constant images are compared only by their luminance.
    """

    higher_is_better = True

    def __init__(self, region: Region = "whole", channels: Channels = "rgb") -> None:
        """Compare the `whole` image, or the truth's `foreground`.

        Args:
            region: `foreground` needs `rgb`.
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

    Number of scales: the paper's five need a shorter side of at least 176 pixels. Smaller images use the first 4, 3, 2 or 1 scales, from
    99, 44, 22 or 11 pixels on, with their weights normalised to sum 1. Numbers from different numbers of scales are not comparable,
    although the metric's name is the same: set `betas` to fix them.

    Degenerate input: a non-finite image scores NaN.
    """

    higher_is_better = True

    def __init__(self, betas: Sequence[float] | None = None, channels: Channels = "rgb") -> None:
        """Set the weights of the scales.

        Args:
            betas: a weight for each scale, finest first; by default as many of the paper's as fit the image size.
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
    """Return the BT.601 luma of images `(B, 3, H, W)` in [0, 1]: `(B, 1, H, W)` float64 in [0, 255], not rounded."""
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
    """Return MS-SSIM `(B,)` of luma `(B, 1, H, W)` in [0, 255]: structure per scale, SSIM at the last, to their powers."""
    product = torch.ones(len(prediction), dtype=prediction.dtype, device=prediction.device)
    for scale, beta in enumerate(betas, start=1):
        similarity, structure = luma_ssim(prediction, target)
        product = product * (similarity if scale == len(betas) else structure) ** beta
        padding = [side % 2 for side in target.shape[2:]]
        prediction, target = (functional.avg_pool2d(image, kernel_size=2, padding=padding) for image in (prediction, target))
    return product


def betas_for(side: int) -> tuple[float, ...]:
    """Return the weights of as many scales as fit this shorter side: the paper's five, or fewer that sum to one.

    Raises:
        UserError: if none fits.
    """
    n_scales = sum(side >= shortest for shortest in SHORTEST_SIDES)
    if n_scales == 0:
        raise UserError(f"MSSSIM needs images of at least {SHORTEST_SIDES[0]} pixels a side, got {side}: leave it out at this size")
    if n_scales == len(BETAS):
        return BETAS
    return tuple(beta / sum(BETAS[:n_scales]) for beta in BETAS[:n_scales])
