"""BPR-DAE's cost (Song et al., NeuroStylist, ACM MM 2017, of which GeCo's authors keep the visual half)."""

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
    """Return the mean squared errors of x1, x2 and x3, added up: top, positive bottoms and negative bottoms, each (B, visible).

    The negatives are the batch's own bottoms in another order, so that their mean is the positives' and is not computed again.
    """
    return mse_loss(top_again, top) + 2 * mse_loss(bottom_again, bottom)


def ranking_loss(top: Tensor, bottom: Tensor, negative: Tensor, variant: Variant, rolls: Sequence[int] = ROLLS) -> Tensor:
    """Rank each row's bottom above those of other rows by y1 . y2 - y1 . y3, codes (B, hidden), `negative` (R, B) bool.

    `paper`: -log sigmoid, mean over the rolled bottoms that are `negative` (0 where none is). `code`: -hardsigmoid, mean over all of them,
    which has no gradient where the difference is beyond 3 on either side.
    """
    difference = (top * bottom).sum(dim=-1) - (top * rolled(bottom, rolls)).sum(dim=-1)
    if variant == "code":
        return -hardsigmoid(difference).mean()
    return masked_mean(softplus(-difference), negative)


def weight_penalty(parameters: Iterable[Tensor]) -> Tensor:
    """Return the mean squares of each parameter, added up (not their sums: a bias weighs as much as a matrix)."""
    return torch.stack([parameter.square().mean() for parameter in parameters]).sum()
