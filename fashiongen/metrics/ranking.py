"""Retrieval metrics: the expected rank of each query's positive among candidates.

Ties: if candidates score the same as the positive, all their orders are equally likely, and the value is the mean over these orders. A
constant scorer therefore gets exactly chance. Negative scores are allowed. A query with non-finite scores is NaN, and so is the whole
metric; a query without candidates is undefined, excluded and counted by `n_undefined`.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from fashiongen.batches import Ranked
from fashiongen.errors import UserError
from fashiongen.metrics.base import PerSample


class RankingMetric(PerSample):
    """Mean over queries of a value that depends on how many candidates score higher than the positive, and how many equal.

    Candidates, besides the positive:

    - `negatives:N`: the first N of the query's listed negatives; duplicates count twice.
    - `positives`: all positives of any query.
    - `catalogue`: all bottoms of the split, positives and negatives.
    """

    higher_is_better = True

    def __init__(self, candidates: str = "catalogue", leave_out_others: bool = True) -> None:
        """Choose the candidates that the positive is ranked among.

        Args:
            candidates: see the class.
            leave_out_others: exclude other positives of the same top; False counts them as wrong, as in GeCo's code.
        """
        super().__init__()
        kind, _, count = candidates.partition(":")
        if not (candidates in ("positives", "catalogue") or (kind == "negatives" and count.isdigit() and int(count) > 0)):
            raise UserError(f"{type(self).__name__}: candidates: {candidates!r}: choose catalogue, positives or negatives:N")
        self.candidates = candidates
        self.n_negatives = int(count) if count else None
        self.leave_out_others = leave_out_others

    @abstractmethod
    def value(self, above: Tensor, ties: Tensor, count: Tensor) -> Tensor:
        """Return values (B,), given the number of candidates (`count`), of higher (`above`) and equal (`ties`) ones, all float64."""

    def update(self, ranked: Ranked) -> None:
        """Score a batch of queries.

        Raises:
            UserError: if the lists name fewer negatives than the metric needs.
        """
        own = ranked.scores.gather(1, ranked.positive[:, None])
        if self.n_negatives is not None:
            if ranked.negatives.shape[1] < self.n_negatives or (ranked.negatives[:, : self.n_negatives] < 0).any():
                raise UserError(f"{type(self).__name__}: candidates={self.candidates}, but the list names fewer negatives")
            chosen = ranked.negatives[:, : self.n_negatives]
            scores, counted = ranked.scores.gather(1, chosen), torch.ones_like(chosen, dtype=torch.bool)
            if self.leave_out_others:
                counted = ~(ranked.others.gather(1, chosen) | (chosen == ranked.positive[:, None]))
        else:
            width = ranked.n_positives if self.candidates == "positives" else ranked.scores.shape[1]
            scores, counted = ranked.scores[:, :width], ranked.scores.new_ones((len(own), width), dtype=torch.bool)
            counted.scatter_(1, ranked.positive[:, None], False)
            if self.leave_out_others:
                counted &= ~ranked.others[:, :width]
        above = ((scores > own) & counted).sum(dim=1).double()
        ties = ((scores == own) & counted).sum(dim=1).double()
        count = counted.sum(dim=1).double()
        finite = (scores.isfinite() | ~counted).all(dim=1) & own[:, 0].isfinite()
        values = self.value(above, ties, count)
        self.scores.append(torch.where(finite & (count > 0), values, torch.nan).float())
        self.defined.append((count > 0).float())


class AUC(RankingMetric):
    """Share of candidates that score lower than the positive; ties count half (GeCo's eq. 14 counts them as lost)."""

    def value(self, above: Tensor, ties: Tensor, count: Tensor) -> Tensor:
        """Return 1 - (above + ties / 2) / count."""
        return 1.0 - (above + ties / 2.0) / count.clamp(min=1)


class MRR(RankingMetric):
    """Mean reciprocal rank, starting at rank 1; random scores give H_n / n for n candidates including the positive."""

    def value(self, above: Tensor, ties: Tensor, count: Tensor) -> Tensor:
        """Return the mean of 1 / rank over the ranks above + 1 to above + ties + 1, as a difference of harmonic numbers."""
        return (torch.digamma(above + ties + 2.0) - torch.digamma(above + 1.0)) / (ties + 1.0)


class Recall(RankingMetric):
    """Share of queries whose positive is among the first `k`."""

    def __init__(self, k: int, candidates: str = "catalogue", leave_out_others: bool = True) -> None:
        """Use the first `k`; see `RankingMetric` for the other arguments."""
        super().__init__(candidates, leave_out_others)
        if k < 1:
            raise UserError(f"Recall: k: {k}: must be at least 1")
        self.k = k

    def value(self, above: Tensor, ties: Tensor, count: Tensor) -> Tensor:
        """Return the share of the tied ranks that are within the first k."""
        return (self.k - above).clamp(min=0).minimum(ties + 1.0) / (ties + 1.0)


class NDCG(RankingMetric):
    """Mean of 1 / log2(1 + rank): the normalised discounted cumulative gain of a single positive, over the whole ranking."""

    def value(self, above: Tensor, ties: Tensor, count: Tensor) -> Tensor:
        """Return the mean gain over the tied ranks."""
        longest = int((above + ties).max().item()) + 1 if len(above) else 0
        ranks = torch.arange(1, longest + 1, dtype=torch.float64, device=above.device)
        gained = torch.cat([ranks.new_zeros(1), (1.0 / torch.log2(1.0 + ranks)).cumsum(0)])
        return (gained[(above + ties).long() + 1] - gained[above.long()]) / (ties + 1.0)
