"""Structural similarity, by torchmetrics: SSIM of whole pictures or of the garment alone, and MS-SSIM.

Both reward grey shapes and blank paper: claim no learning on them alone.
"""

from collections.abc import Sequence

from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure, structural_similarity_index_measure

from fashiongen.errors import UserError
from fashiongen.metrics.base import PairMetric, Region, masked_mean

# Wang et al. 2003, section 3.2: the weight of each scale, finest first.
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# The shorter side in pixels from which torchmetrics can compute 1, 2, ... scales with its 11-pixel window.
SHORTEST_SIDES = (11, 22, 44, 99, 176)


class SSIM(PairMetric):
    """Structural similarity; range [-1, 1], higher is better; no extractor.

    Source: Wang et al. 2004, equation (13), as torchmetrics computes it: per RGB channel, Gaussian window of 11 pixels and sigma 1.5,
    data range 1, reflected borders. `whole` is its mean over pixels and channels; `foreground` the mean of the same map inside the mask of
    the true garment (windows at its edge look beyond it). The two are different metrics: name which one is reported.

    Degenerate input: with `foreground` a sample with an empty mask has no value, is left out of the mean and counted; a non-finite picture
    scores NaN. Two constant pictures are compared by their luminance alone.
    """

    higher_is_better = True

    def __init__(self, region: Region = "whole") -> None:
        """Judge the `whole` picture, or the `foreground` of the truth."""
        super().__init__()
        self.region = region

    def score(self, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Return the similarity `(B,)` of pictures with at least 6 pixels a side."""
        _, similarity = structural_similarity_index_measure(prediction, target, data_range=1.0, reduction="none", return_full_image=True)
        if self.region == "foreground" and mask is not None:
            return masked_mean(similarity.mean(dim=1), mask[:, 0])
        return similarity.mean(dim=(1, 2, 3))


class MSSSIM(PairMetric):
    """Multi-scale structural similarity of whole pictures; range [0, 1], higher is better; no extractor.

    Source: Wang et al. 2003, equation (7), as torchmetrics computes it, with its settings of SSIM, 2x2 mean pooling between scales, and
    negative factors set to 0.

    Number of scales: the paper's five need a shorter side of at least 176 pixels. Smaller pictures get the first 4, 3, 2 or 1 scales, from
    99, 44, 22 or 11 pixels on, with those weights divided by their sum. Numbers from different numbers of scales are not comparable
    although the metric's name is the same: give `betas` to fix them.

    Degenerate input: a non-finite picture scores NaN.
    """

    higher_is_better = True

    def __init__(self, betas: Sequence[float] | None = None) -> None:
        """Weigh the scales, finest first, with `betas`; by default as many of the paper's as the picture has room for."""
        super().__init__()
        self.betas = None if betas is None else tuple(betas)

    def score(self, prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Return the similarity `(B,)`."""
        side = min(target.shape[2:])
        betas = self.betas or betas_for(side)
        if side < SHORTEST_SIDES[min(len(betas), len(SHORTEST_SIDES)) - 1]:
            raise UserError(f"MSSSIM(betas={list(betas)}) needs a shorter side of more than {side} pixels: leave betas out, or give fewer")
        return multiscale_structural_similarity_index_measure(prediction, target, data_range=1.0, reduction="none", betas=betas)


def betas_for(side: int) -> tuple[float, ...]:
    """Return the weights of as many scales as pictures with this shorter side have room for: the paper's five, or fewer that sum to one.

    Raises:
        UserError: if there is room for none.
    """
    n_scales = sum(side >= shortest for shortest in SHORTEST_SIDES)
    if n_scales == 0:
        raise UserError(f"MSSSIM needs pictures of at least {SHORTEST_SIDES[0]} pixels a side, got {side}: leave it out at this size")
    if n_scales == len(BETAS):
        return BETAS
    return tuple(beta / sum(BETAS[:n_scales]) for beta in BETAS[:n_scales])
