"""Intervals of a mean, and of a difference of two means, from values per sample of several seeds.

Samples and seeds are crossed: every seed tests the same samples. Samples are nested in clusters that share an input, such as the queries of
one top; only clusters are independent of each other. The mean of seed s in cluster c is

    Y[s, c] = mu + seed[s] + cluster[c] + interaction[s, c],

where `cluster` and `interaction` also hold what differs between the samples of a cluster. With w[c] the share of the samples that are in
cluster c, the mean m is the mean over s of m[s] = sum over c of w[c] Y[s, c]. Its variance has two parts, each estimated by moments:

    seeds    A = sum over s of (m[s] - m)^2 / (S (S - 1)): seeds and interaction; 0 for one seed.
    samples  M = max(B - I, 0): clusters alone. B is the jackknife variance of m over clusters. I is the interaction's part in it: the
             jackknife variance of the deviations Y[s, c] - mean over s of Y[s, c], summed over s, over S (S - 1); 0 for one seed.

The half-width is Cochran and Cox's weighted t, (A t(df of A) + M t(df of B)) / sqrt(A + M). A has S - 1 degrees of freedom. B has those
of its quadratic form under a working model with equal correlations in all clusters (Satterthwaite; Bell and McCaffrey): C - 1 for C
clusters of one size, fewer if some clusters are much larger than others. One t with Satterthwaite's degrees of freedom for A + M covers
less than 95 % with few seeds; see `benchmarks/studies/intervals.py`.

For the difference of two rows, M is that of the paired differences of the clusters' means. A is the sum of both rows' A, since their
seeds are independent, with Welch's degrees of freedom. Imports neither torch nor anything that does.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]

LEVEL = 0.95
"""The level of all intervals that are shown."""

SMALLEST_P = 1e-12

ROUNDING = 1e-9
"""Values this close, relative to the larger one, differ only by rounding."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The mean of one row, or the mean difference of two rows, with its interval.

    Attributes:
        mean: mean over seeds and samples.
        low: lower end.
        high: upper end.
        p: two-sided p-value of a mean of zero.
        seeds: number of seeds of each row.
        clusters: number of clusters.
        samples: number of samples that have a value in every run.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: tuple[int, ...]
    clusters: int
    samples: int


@dataclass(frozen=True)
class Moments:
    """The mean and the two parts of its variance, each (...), for a whole batch of data at once.

    Attributes:
        mean: the mean.
        seeds: A, the variance over seeds.
        seeds_df: degrees of freedom of A; 1 where A is 0.
        samples: M, the variance over clusters.
        samples_df: degrees of freedom of B.
    """

    mean: Array
    seeds: Array
    seeds_df: Array
    samples: Array
    samples_df: Array

    @property
    def error(self) -> Array:
        """The standard error of the mean."""
        return np.sqrt(self.seeds + self.samples)

    def half_width(self, level: float | Array = LEVEL) -> Array:
        """Return the half-width of the interval at a level in (0, 1): Cochran and Cox's weighted t."""
        quantile = (1.0 + np.asarray(level)) / 2.0
        weighted = self.seeds * stdtrit(self.seeds_df, quantile) + self.samples * stdtrit(self.samples_df, quantile)
        width: Array = np.divide(weighted, self.error, out=np.zeros_like(weighted), where=self.error > 0)
        return width

    def p_value(self) -> Array:
        """Return the smallest p such that the interval at level 1 - p excludes 0, by bisection; at least `SMALLEST_P`."""
        low, high = np.full_like(self.mean, np.log(SMALLEST_P)), np.zeros_like(self.mean)
        for _ in range(50):
            middle = (low + high) / 2.0
            excluded = np.abs(self.mean) > self.half_width(1.0 - np.exp(middle))
            low, high = np.where(excluded, low, middle), np.where(excluded, middle, high)
        return np.where(self.mean == 0.0, 1.0, np.exp(high))


def moments(rows: Sequence[Array], sizes: Array, within: Array) -> Moments:
    """Return the mean and the parts of its variance, for one row or for the first row less the second.

    Args:
        rows: for each row, each seed's means of the clusters, (..., S, C), C at least 2; S may differ between the rows.
        sizes: number of samples of each cluster, (C,).
        within: variance of the samples of a cluster, (...), of the means over seeds, or of their differences.
    """
    weights = sizes / sizes.sum()
    count = len(sizes)
    # Leaving out cluster c moves the mean by weights[c] / (1 - weights[c]) times the cluster's residual.
    jackknife = (count - 1) / count * (weights / (1.0 - weights)) ** 2
    signs = (1.0, -1.0)
    centre: Array = sum(sign * row.mean(axis=-2) for sign, row in zip(signs, rows, strict=False))
    mean = centre @ weights
    residual = centre - mean[..., None]
    samples = residual**2 @ jackknife
    seeds, squares = np.zeros_like(mean), np.zeros_like(mean)
    for row in rows:
        number = row.shape[-2]
        if number < 2:
            continue
        deviation = row - row.mean(axis=-2, keepdims=True)
        by_seed = deviation @ weights
        variance = (by_seed**2).sum(axis=-1) / (number * (number - 1))
        samples = samples - (((deviation - by_seed[..., None]) ** 2) @ jackknife).sum(axis=-1) / (number * (number - 1))
        seeds, squares = seeds + variance, squares + variance**2 / (number - 1)
    return Moments(
        mean=mean,
        seeds=seeds,
        seeds_df=np.divide(seeds**2, squares, out=np.ones_like(seeds), where=squares > 0),
        samples=np.maximum(samples, 0.0),
        samples_df=_cluster_df(residual, sizes, within, weights, jackknife),
    )


def _cluster_df(residual: Array, sizes: Array, within: Array, weights: Array, jackknife: Array) -> Array:
    """Return the degrees of freedom of the jackknife variance over clusters, (...): tr(K V)^2 / tr(K V K V).

    K is the matrix of the quadratic form, diag(q) - w q' - q w' + sum(q) w w', for q the jackknife's factors and w the weights; V is
    diagonal, the variances of the clusters' means in the working model: r + (1 - r) / size, with r the correlation of two samples of a
    cluster, by the moments of the analysis of variance (at least 0, at most 1).
    """
    count, total = len(sizes), sizes.sum()
    if np.ptp(sizes) == 0:
        return np.full(residual.shape[:-1], count - 1.0)
    between = (residual**2 @ sizes) / (count - 1)
    typical = (total - (sizes**2).sum() / total) / (count - 1)
    cluster = np.maximum(between - within, 0.0) / typical
    correlation = np.divide(cluster, cluster + within, out=np.ones_like(cluster), where=cluster + within > 0)[..., None]
    variance = correlation + (1.0 - correlation) / sizes
    q, w, whole = jackknife, weights, jackknife.sum()
    ww, wq, qq = variance @ (w * w), variance @ (w * q), variance @ (q * q)
    trace = variance @ q - 2.0 * wq + whole * ww
    # tr(K V K V) for K = diag(q) + U G U', U = [w, q], G = [[whole, -1], [-1, 0]].
    diagonal = (variance**2) @ (q * q + 2.0 * q * (whole * w * w - 2.0 * w * q))
    first, second, third, fourth = whole * ww - wq, whole * wq - qq, -ww, -wq
    squared = diagonal + first**2 + 2.0 * second * third + fourth**2
    freedom: Array = np.maximum(trace**2 / squared, 1.0)
    return freedom


def interval(values: Array, clusters: Sequence[Hashable], less: Array | None = None, level: float = LEVEL) -> Interval | None:
    """Return the interval of the mean of `values`, or of the mean difference `values - less`, over seeds and clusters.

    With one seed it is over clusters alone: it is about that checkpoint. A method that gives the same values for every seed has no variance
    over seeds.

    >>> interval(np.array([[1.0, 2.0, 3.0, 4.0]]), ["a", "b", "c", "d"]).seeds
    (1,)

    Args:
        values: a row of seeds and samples, (S, N). Samples with a non-finite value in any run are left out.
        clusters: the cluster of each sample, N.
        less: the row to subtract, of the same samples, (T, N).
        level: the level of the interval, in (0, 1).

    Returns:
        The interval; None if fewer than two clusters have a value.
    """
    rows = [values] if less is None else [values, less]
    known = np.logical_and.reduce([np.isfinite(row).all(axis=0) for row in rows])
    codes: dict[Hashable, int] = {}
    code = np.array([codes.setdefault(cluster, len(codes)) for cluster, has in zip(clusters, known, strict=True) if has], dtype=np.int64)
    count = len(codes)
    if count < 2:
        return None
    sizes = np.bincount(code).astype(np.float64)
    rows = [row[:, known] for row in rows]
    # The same layout for every seed: sorted by cluster.
    order, starts = np.argsort(code, kind="stable"), np.concatenate([[0], np.cumsum(sizes)[:-1].astype(np.int64)])
    means = [np.add.reduceat(row[:, order], starts, axis=1) / sizes for row in rows]
    each = rows[0].mean(axis=0) - (rows[1].mean(axis=0) if less is not None else 0.0)
    each_mean = means[0].mean(axis=0) - (means[1].mean(axis=0) if less is not None else 0.0)
    within = ((each - each_mean[code]) ** 2).sum() / max(len(code) - count, 1)
    found = moments(means, sizes, np.asarray(within))
    mean, half, p = float(found.mean), float(found.half_width(level)), float(found.p_value())
    rounding = ROUNDING * max(float(np.abs(row).mean()) for row in rows)
    if half <= rounding:
        half, mean = 0.0, 0.0 if len(rows) == 2 and abs(mean) <= rounding else mean
        p = 1.0 if mean == 0.0 else SMALLEST_P
    return Interval(
        mean=mean,
        low=mean - half,
        high=mean + half,
        p=p,
        seeds=tuple(len(row) for row in rows),
        clusters=count,
        samples=len(code),
    )


def interval_of_one_run(values: Array, clusters: Sequence[Hashable]) -> list[float] | None:
    """Return the ends of the 95 % interval of the mean of one run's values (N,), over its clusters.

    None if a value is not finite, if there are fewer than two clusters, or if all values are equal: that they do not vary here says
    nothing about other samples.
    """
    if not np.isfinite(values).all():
        return None
    found = interval(values[None], clusters)
    return None if found is None or found.low == found.high else [found.low, found.high]


def over_seeds(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Return the interval of a mean over seeds by Student's t, for values that have no parts per sample; None for fewer than two."""
    if len(values) < 2:
        return None
    found = np.asarray(values, dtype=np.float64)
    mean = float(found.mean())
    half = float(stdtrit(len(found) - 1, (1.0 + level) / 2.0)) * float(found.std(ddof=1)) / float(np.sqrt(len(found)))
    return mean - half, mean + half


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values of a family of comparisons, in the given order.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
