"""GECo's losses (eqs. 9 to 13) and CIGM's (eqs. 7 and 8), each as in the paper and as in the authors' code.

Row i of a batch is a top with its bottom: q = query embeddings and b = bottom embeddings, both (B, D). The negatives of a row are the
other rows' bottoms, so that each bottom is encoded once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, l1_loss, logsigmoid, normalize

Variant = Literal["paper", "code"]
EPSILON = 10e-6  # from the authors' code: 1e-5


def bpr_loss(query: Tensor, bottom: Tensor, negative: Tensor, variant: Variant) -> Tensor:
    """Eq. 11: mean of -log sigma(m_ij - m_ik), where m = q . b and k is the row before (the first row takes the last).

    Args:
        query: (B, D).
        bottom: (B, D).
        negative: (B, B) bool, see `fashiongen.nn.negatives.negative_mask`; `paper` excludes rows whose k is not a negative, and is 0
            if no row is left.
        variant: `code` excludes no row and computes -log(1e-5 + sigma(.)), which is at most 11.5.
    """
    margin = (query * bottom).sum(dim=1) - (query * bottom.roll(1, dims=0)).sum(dim=1)
    if variant == "code":
        return -torch.log(EPSILON + torch.sigmoid(margin)).mean()
    used = negative.roll(1, dims=1).diagonal()
    return -(logsigmoid(margin) * used).sum() / used.sum().clamp(min=1)


def info_nce_loss(query: Tensor, bottom: Tensor, negative: Tensor, tau: float, variant: Variant) -> Tensor:
    """Eq. 12: mean of -1/tau log(exp(m_ij / tau) / sum_k exp(m_ik / tau)), k over the row's own bottom and all its negatives.

    Args:
        query: (B, D).
        bottom: (B, D).
        negative: (B, B) bool, see `fashiongen.nn.negatives.negative_mask`; a row without negatives has the loss 0.
        tau: the temperature.
        variant: `code` uses cosines instead of eq. 9's dot products, no factor 1/tau, and every other row as a negative.
    """
    own = torch.arange(len(query), device=query.device)
    if variant == "code":
        cosine = normalize(query, dim=1) @ normalize(bottom, dim=1).T
        loss: Tensor = cross_entropy(cosine / tau, own)
        return loss
    candidates = negative | torch.eye(len(query), dtype=torch.bool, device=query.device)
    loss = cross_entropy((query @ bottom.T / tau).masked_fill(~candidates, -torch.inf), own)
    return loss / tau


def regulariser(parameters: Iterable[Tensor], query: Tensor, bottom: Tensor, variant: Variant) -> Tensor:
    """Eq. 13: ||theta||_2, the root of the sum of squares of all parameters.

    Args:
        parameters: theta of GECo.
        query: (B, D), only used by `code`.
        bottom: (B, D), only used by `code`.
        variant: `code` adds up ||W||_2 / (first dimension of W) over the parameters and ||E||_2 / B over the embeddings of queries,
            bottoms and negatives, which are the same bottoms again.
    """
    parameters = list(parameters)
    norms = torch.stack([torch.linalg.vector_norm(parameter) for parameter in parameters])
    if variant == "paper":
        return torch.linalg.vector_norm(norms)  # type: ignore[no-any-return]  # torch leaves it untyped
    lengths = norms.new_tensor([len(parameter) for parameter in parameters])
    embeddings = torch.linalg.vector_norm(query) + 2 * torch.linalg.vector_norm(bottom)
    return (norms / lengths).sum() + embeddings / len(query)  # type: ignore[no-any-return]


def generator_loss(logits: Tensor, generated: Tensor, bottom: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Eq. 7: -log D(t, G(t, z)) and lambda || G(t, z) - b ||_1, each a mean over its elements.

    Args:
        logits: D's logits of the generated pairs, (B, 1, c, c).
        generated: (B, 3, S, S).
        bottom: (B, 3, S, S).
        weight: lambda.
    """
    return binary_cross_entropy_with_logits(logits, torch.ones_like(logits)), weight * l1_loss(generated, bottom)


def spread(generated: Tensor, weight: float, diversity: float) -> Tensor:
    """The reward subtracted from eq. 7 for two draws of a top that differ: lambda * diversity / 2 * || G(t, z) - G(t, z') ||_1, a mean.

    Eq. 7's L1 norm is minimal if every z gives the median of the matching bottoms, so it removes the effect of z, which the paper adds
    for diversity. Minus this term with diversity 1, its mean over z and z' is the continuous ranked probability score of each value
    (Gneiting and Raftery 2007, eq. 21), which is minimal if the draws of a value have the same distribution as the true bottoms'. Joint
    structure of pixels is left to the discriminator. With a diversity d below 1 the optimal spread is the middle share d of the true one.

    Args:
        generated: G(t, z), then G(t, z') of the same tops, (2B, 3, S, S).
        weight: lambda.
        diversity: d, 0 to 1.
    """
    first, second = generated.chunk(2)
    return weight * diversity / 2.0 * l1_loss(first, second)


def discriminator_loss(real: Tensor, generated: Tensor, variant: Variant) -> Tensor:
    """Eq. 8: -log D(t, b) - log(1 - D(t, G(t, z))), means over the patches; `code` halves it. Logits (B, 1, c, c)."""
    loss = binary_cross_entropy_with_logits(real, torch.ones_like(real)) + binary_cross_entropy_with_logits(
        generated, torch.zeros_like(generated)
    )
    return loss / 2 if variant == "code" else loss
