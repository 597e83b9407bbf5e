"""The statistics of a leaderboard: intervals over seeds, and differences from the best over paired samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

RESAMPLES, RESAMPLES_AT_ONCE = 2000, 100


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of a row to the best one (row minus best), with a 95 % interval over samples.

    Attributes:
        mean: mean over the samples that have a value in both.
        low: lower end of the percentile interval.
        high: upper end of the percentile interval.
        p: two-sided p-value: twice the share of resamples on the rarer side of 0, at most 1, at least 2 / (RESAMPLES + 1).
        samples: number of samples that have a value in both.
    """

    mean: float
    low: float
    high: float
    p: float
    samples: int


def mean_over_seeds(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Return the mean and its 95 % interval by Student's t with n - 1 degrees of freedom; no interval for fewer than two values."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = float(stdtrit(len(values) - 1, 0.975)) * deviation / math.sqrt(len(values))
    return mean, (mean - half, mean + half)


def paired_bootstrap(differences: NDArray[np.float64], seed: int = 0) -> list[Difference | None]:
    """Bootstrap the mean of each column of differences (N, K) over samples, with the same draws for all columns.

    A non-finite value marks a sample without a value in one of the two rows; it is excluded from its column. Columns with fewer than two
    samples give None. The result is deterministic. Only samples are resampled, the trained weights are fixed: the result says whether these
    models differ on such samples, not whether models trained with another seed would.
    """
    count, width = differences.shape
    valid = np.isfinite(differences)
    enough = valid.sum(axis=0)
    if count < 2 or not width:
        return [None] * width
    filled, counted = np.where(valid, differences, 0.0), valid.astype(np.float64)
    generator = np.random.default_rng(seed)
    even = np.full(count, 1.0 / count)
    means = []
    with np.errstate(invalid="ignore"):
        for _ in range(RESAMPLES // RESAMPLES_AT_ONCE):
            weights = generator.multinomial(count, even, size=RESAMPLES_AT_ONCE).astype(np.float64)
            means.append((weights @ filled) / (weights @ counted))
        observed = filled.sum(axis=0) / enough
    resampled = np.concatenate(means)
    found: list[Difference | None] = []
    for column in range(width):
        draws = resampled[np.isfinite(resampled[:, column]), column]
        if enough[column] < 2 or not len(draws):
            found.append(None)
            continue
        low, high = np.quantile(draws, [0.025, 0.975])
        rarer = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
        p = min(1.0, 2.0 * (rarer + 1) / (len(draws) + 1))
        found.append(Difference(mean=float(observed[column]), low=float(low), high=float(high), p=p, samples=int(enough[column])))
    return found
