"""Metrics of retrieval: each query's positive among candidates, judged by its expected rank.

The rule for ties: where candidates score the same as the positive, every order of them is as likely as any other, and a value is the mean
over these orders. A constant scorer therefore gets exactly chance. Negative scores are scores like any other. A query whose scores are not
finite is NaN, and so is then the metric; one without candidates has no value, is left out and counted by `n_undefined`.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from fashiongen.batches import Ranked
from fashiongen.errors import UserError
from fashiongen.metrics.base import PerSample


class RankingMetric(PerSample):
    """Mean over queries of a value that depends on how many candidates score higher than the positive, and how many the same.

    Candidates, beside the positive:

    - `negatives:N`: the first N that the query's list names as negatives, as they are: one that stands twice counts twice.
    - `positives`: all that are right for some query.
    - `catalogue`: all that the split names, as positive or as negative.
    """

    higher_is_better = True

    def __init__(self, candidates: str = "catalogue", leave_out_others: bool = True) -> None:
        """Say what the positive is ranked among.

        Args:
            candidates: see the class.
            leave_out_others: other positives of the same top are no candidates; False counts them as wrong, as GeCo's code does.
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
        """Return values (B,) of queries whose positive has `above` higher and `ties` equal ones among `count` candidates, all float64."""

    def update(self, ranked: Ranked) -> None:
        """Score a batch of queries.

        Raises:
            UserError: if the lists name fewer negatives than the metric wants.
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
    """Share of candidates that score lower than the positive; equal ones count half (eq. 14 of GeCo counts them as lost)."""

    def value(self, above: Tensor, ties: Tensor, count: Tensor) -> Tensor:
        """Return 1 - (above + ties / 2) / count."""
        return 1.0 - (above + ties / 2.0) / count.clamp(min=1)


class MRR(RankingMetric):
    """Mean of the inverse rank, the best rank being 1; random scores reach H_n / n among n, the positive included."""

    def value(self, above: Tensor, ties: Tensor, count: Tensor) -> Tensor:
        """Return the mean of 1 / rank over the ranks above + 1 to above + ties + 1, by the difference of harmonic numbers."""
        return (torch.digamma(above + ties + 2.0) - torch.digamma(above + 1.0)) / (ties + 1.0)


class Recall(RankingMetric):
    """Share of queries whose positive is among the first `k`."""

    def __init__(self, k: int, candidates: str = "catalogue", leave_out_others: bool = True) -> None:
        """Look at the first `k`; for the rest see `RankingMetric`."""
        super().__init__(candidates, leave_out_others)
        if k < 1:
            raise UserError(f"Recall: k: {k}: must be at least 1")
        self.k = k

    def value(self, above: Tensor, ties: Tensor, count: Tensor) -> Tensor:
        """Return the share of the tied places that are among the first k."""
        return (self.k - above).clamp(min=0).minimum(ties + 1.0) / (ties + 1.0)


class NDCG(RankingMetric):
    """Mean of 1 / log2(1 + rank): the normalised discounted cumulative gain of a single positive, over the whole ranking."""

    def value(self, above: Tensor, ties: Tensor, count: Tensor) -> Tensor:
        """Return the mean gain over the tied places."""
        longest = int((above + ties).max().item()) + 1 if len(above) else 0
        ranks = torch.arange(1, longest + 1, dtype=torch.float64, device=above.device)
        gained = torch.cat([ranks.new_zeros(1), (1.0 / torch.log2(1.0 + ranks)).cumsum(0)])
        return (gained[(above + ties).long() + 1] - gained[above.long()]) / (ties + 1.0)
