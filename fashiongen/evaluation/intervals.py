"""Confidence intervals of a mean over samples."""

import numpy as np
from numpy.typing import NDArray

RESAMPLES, RESAMPLES_AT_ONCE = 1000, 100


def bootstrap_interval(values: NDArray[np.float64], seed: int = 0) -> list[float] | None:
    """Return the 95 % percentile bootstrap interval of the mean of `values` (N,); None for fewer than two or non-finite values."""
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    generator, count = np.random.default_rng(seed), len(values)
    draws = [values[generator.integers(count, size=(RESAMPLES_AT_ONCE, count))].mean(axis=1) for _ in range(RESAMPLES // RESAMPLES_AT_ONCE)]
    low, high = np.quantile(np.concatenate(draws), [0.025, 0.975])
    return [float(low), float(high)]
