"""BPR-DAE's cost (Song et al., NeuroStylist, ACM MM 2017; GeCo's authors use only its visual half)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import hardsigmoid, mse_loss, softplus

from fashiongen.nn.negatives import masked_mean, rolled

Variant = Literal["paper", "code"]
ROLLS = (1, 2, 3)  # negatives of a training row: the bottoms of the three rows before it


def reconstruction_loss(top: Tensor, top_again: Tensor, bottom: Tensor, bottom_again: Tensor) -> Tensor:
    """Return the sum of the mean squared errors of x1, x2 and x3: top, positive bottoms and negative bottoms, each (B, visible).

    The negatives are the batch's own bottoms in another order, so their mean equals the positives' and is not recomputed.
    """
    return mse_loss(top_again, top) + 2 * mse_loss(bottom_again, bottom)


def ranking_loss(top: Tensor, bottom: Tensor, negative: Tensor, variant: Variant, rolls: Sequence[int] = ROLLS) -> Tensor:
    """Rank each row's bottom above those of other rows by y1 . y2 - y1 . y3, codes (B, hidden), `negative` (R, B) bool.

    `paper`: -log sigmoid, mean over the rolled bottoms that are `negative` (0 without any). `code`: -hardsigmoid, mean over all of them,
    which has no gradient if the difference is beyond 3 on either side.
    """
    difference = (top * bottom).sum(dim=-1) - (top * rolled(bottom, rolls)).sum(dim=-1)
    if variant == "code":
        return -hardsigmoid(difference).mean()
    return masked_mean(softplus(-difference), negative)


def weight_penalty(parameters: Iterable[Tensor]) -> Tensor:
    """Return the sum of each parameter's mean square (not the sum of squares: a bias has as much weight as a matrix)."""
    return torch.stack([parameter.square().mean() for parameter in parameters]).sum()
