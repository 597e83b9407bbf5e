"""Simulate how often the intervals of `fashiongen.intervals` cover, beside the bootstrap and Student's t that they replaced.

    python benchmarks/studies/intervals.py [--repeats 4000] [--quick]

Prints `results/intervals`; seven minutes on one core. Every value is

    value[s, c, i] = seed[s] + cluster[c] + sample[c, i] + interaction[s, c] + rest[s, c, i],

all terms independent with mean 0, so every method is as good as every other. The terms' shares of the variance of one value are swept; what
seed, cluster and interaction leave is halved between sample and rest. Cluster means are drawn directly, with their exact distribution.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from fashiongen.intervals import moments

Array = NDArray[np.float64]

SEEDS = (1, 2, 3, 5, 10)
SEED_SHARES = (0.0, 0.001, 0.005, 0.02, 0.1, 0.6)
CLUSTER_SHARES = (0.0, 0.3, 0.6)
INTERACTION_SHARES = (0.0, 0.2)
RESAMPLES = 1000
AT_ONCE = 500


@dataclass(frozen=True)
class Design:
    """How samples fall into clusters, and whether what clusters and samples have in common over seeds is skewed (exponential)."""

    name: str
    sizes: Array
    skewed: bool = False


@dataclass(frozen=True)
class Shares:
    """Shares of the variance of one value; they sum to 1."""

    seed: float
    cluster: float
    interaction: float

    @property
    def rest(self) -> float:
        """The share of `sample`, and that of `rest`."""
        return (1.0 - self.seed - self.cluster - self.interaction) / 2.0


@dataclass
class Counts:
    """How many intervals did not cover, of `repeats`: of a row's mean, and of the difference of two rows of equal methods.

    Attributes:
        row: our interval of a row.
        other: our interval of the difference of two methods.
        same: our interval of the difference of two rows of one method, trained with other seeds.
        satterthwaite: the interval of a row with the same two parts, by one t with Satterthwaite's degrees of freedom.
        old_row: Student's t over seeds; the bootstrap over samples for one seed.
        old_other: the paired bootstrap over samples, for two methods.
        old_same: the paired bootstrap over samples, for one method.
    """

    repeats: int = 0
    row: int = 0
    other: int = 0
    same: int = 0
    satterthwaite: int = 0
    old_row: int = 0
    old_other: int = 0
    old_same: int = 0


def unequal(total: int, mean: float, seed: int) -> Array:
    """Return cluster sizes of a geometric distribution with this mean, at least 1, that sum to `total`."""
    generator = np.random.default_rng(seed)
    sizes: list[int] = []
    while (left := total - sum(sizes)) > 0:
        sizes.append(min(int(generator.geometric(1.0 / mean)), left))
    return np.array(sizes, dtype=np.float64)


def designs() -> list[Design]:
    """Return the designs: the size of our tests, and of VITON-HD's."""
    return [
        Design("225 samples, 225 clusters", np.ones(225)),
        Design("225 samples, 57 clusters of 4", np.array([4.0] * 56 + [1.0])),
        Design("225 samples, 64 clusters of 1 to 13", unequal(225, 4.0, seed=2)),
        Design("225 samples, 64 clusters of 1 to 13, skewed", unequal(225, 4.0, seed=2), skewed=True),
        Design("2,032 samples, 372 clusters of 1 to 37", unequal(2032, 5.0, seed=0)),
    ]


def shares() -> list[Shares]:
    """Return all combinations of shares that leave something for samples."""
    found = itertools.starmap(Shares, itertools.product(SEED_SHARES, CLUSTER_SHARES, INTERACTION_SHARES))
    return [one for one in found if one.rest > 0.0]


@dataclass
class Draws:
    """Values of one row, R repeats: what its seeds share, their own parts, and the deviations within clusters of the mean over seeds.

    Attributes:
        common: what is the same for every seed, the clusters' means (R, C).
        own: what differs between seeds, the clusters' means (R, S, C).
        seed: of `own`, what a seed has in all its samples, (R, S, 1).
        sample: deviations of the samples from their cluster's mean, the same for every seed, (R, N).
        rest: the same for the mean of `rest` over seeds, (R, N).
    """

    common: Array
    own: Array
    seed: Array
    sample: Array
    rest: Array


def draw(design: Design, part: Shares, seeds: int, repeats: int, generator: np.random.Generator) -> Draws:
    """Draw one row."""
    sizes = design.sizes
    code = np.repeat(np.arange(len(sizes)), sizes.astype(int))

    def noise(*shape: int) -> Array:
        return generator.exponential(size=shape) - 1.0 if design.skewed else generator.standard_normal(shape)

    def means(values: Array) -> Array:
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1].astype(int)])
        return np.add.reduceat(values, starts, axis=1) / sizes

    sample = np.sqrt(part.rest) * noise(repeats, len(code))
    within = np.sqrt(part.rest / seeds) * generator.standard_normal((repeats, len(code)))
    seed = np.sqrt(part.seed) * generator.standard_normal((repeats, seeds, 1))
    own = np.sqrt(part.interaction + part.rest / sizes) * generator.standard_normal((repeats, seeds, len(sizes)))
    return Draws(
        common=np.sqrt(part.cluster) * noise(repeats, len(sizes)) + means(sample),
        own=own + seed,
        seed=seed,
        sample=sample - means(sample)[:, code],
        rest=within - means(within)[:, code],
    )


def missed(rows: Sequence[Array], sizes: Array, deviations: Array, truth: Array | float = 0.0) -> tuple[int, int]:
    """Return how many of our intervals, and how many of those by Satterthwaite's single t, do not cover the truth."""
    within = (deviations**2).sum(axis=1) / max(int(sizes.sum()) - len(sizes), 1)
    found = moments(rows, sizes, within)
    off = np.abs(found.mean - truth)
    freedom = found.error**4 / (found.seeds**2 / found.seeds_df + found.samples**2 / found.samples_df)
    return int((off > found.half_width()).sum()), int((off > stdtrit(freedom, 0.975) * found.error).sum())


def bootstrap_missed(centre: Array, deviations: Array, sizes: Array, weights: Array, truth: Array | float = 0.0) -> int:
    """Return how many percentile intervals of a bootstrap over samples do not cover the truth."""
    code = np.repeat(np.arange(len(sizes)), sizes.astype(int))
    values = centre[:, code] + deviations - (truth if isinstance(truth, float) else truth[:, None])
    below = (values.astype(np.float32) @ weights <= 0.0).mean(axis=1)
    return int(((below < 0.025) | (below > 0.975)).sum())


def t_missed(row: Array, sizes: Array) -> int:
    """Return how many of Student's t intervals over seeds do not cover 0."""
    means = row @ (sizes / sizes.sum())
    count = means.shape[1]
    half = stdtrit(count - 1, 0.975) * means.std(axis=1, ddof=1) / np.sqrt(count)
    return int((np.abs(means.mean(axis=1)) > half).sum())


def simulate(design: Design, part: Shares, seeds: int, repeats: int, generator: np.random.Generator, *, old: bool = True) -> Counts:
    """Count the intervals that miss; with one seed, those that miss the checkpoint's own mean."""
    counts, sizes = Counts(), design.sizes
    samples = int(sizes.sum())
    weights = generator.multinomial(samples, np.full(samples, 1.0 / samples), size=RESAMPLES).T.astype(np.float32) if old else None
    for start in range(0, repeats, AT_ONCE):
        number = min(AT_ONCE, repeats - start)
        one, two = (draw(design, part, seeds, number, generator) for _ in range(2))
        first, second = one.common[:, None] + one.own, two.common[:, None] + two.own
        checkpoint = seeds == 1
        row_truth: Array | float = one.seed[:, 0, 0] if checkpoint else 0.0
        truth: Array | float = (one.seed - two.seed)[:, 0, 0] if checkpoint else 0.0
        deviations = one.sample + one.rest
        differences, own_differences = deviations - two.sample - two.rest, one.rest - two.rest
        counts.repeats += number
        of_row, by_satterthwaite = missed([first], sizes, deviations, row_truth)
        counts.row, counts.satterthwaite = counts.row + of_row, counts.satterthwaite + by_satterthwaite
        counts.other += missed([first, second], sizes, differences, truth)[0]
        counts.same += missed([one.own, two.own], sizes, own_differences, truth)[0]
        if weights is not None:
            counts.old_row += (
                bootstrap_missed(first.mean(axis=1), deviations, sizes, weights, row_truth) if checkpoint else t_missed(first, sizes)
            )
            counts.old_other += bootstrap_missed((first - second).mean(axis=1), differences, sizes, weights, truth)
            counts.old_same += bootstrap_missed((one.own - two.own).mean(axis=1), own_differences, sizes, weights, truth)
    return counts


def percent(counts: Sequence[Counts], name: str, *, covered: bool) -> str:
    """Return the range of a share in percent: of intervals that cover, or of those that do not."""
    shares_ = [getattr(one, name) / one.repeats for one in counts]
    shares_ = [1.0 - share for share in shares_] if covered else shares_
    return f"{100 * min(shares_):.1f} to {100 * max(shares_):.1f}"


def report(repeats: int, quick: bool) -> Iterator[str]:
    """Yield the lines of the tables."""
    found: dict[tuple[int, str, float], list[Counts]] = {}
    chosen = designs()[2:3] if quick else designs()
    heads = ["row, covered", "two methods, told apart", "one method, told apart", "Satterthwaite: row, covered"]
    heads += ["before: row, covered", "two methods, told apart", "one method, told apart"]
    yield f"| seeds | design | {' | '.join(heads)} |"
    yield "| ---: | --- |" + " ---: |" * len(heads)
    for seeds, design in itertools.product(SEEDS, chosen):
        counts = []
        for part in shares():
            key = [seeds, len(design.sizes), *(round(1e4 * share) for share in (part.seed, part.cluster, part.interaction))]
            counts.append(simulate(design, part, seeds, repeats, np.random.default_rng(key)))
            found.setdefault((seeds, design.name, part.seed), []).append(counts[-1])
        cells = [percent(counts, "row", covered=True), *(percent(counts, name, covered=False) for name in ("other", "same"))]
        cells += [percent(counts, "satterthwaite", covered=True), percent(counts, "old_row", covered=True)]
        cells += [*(percent(counts, name, covered=False) for name in ("old_other", "old_same"))]
        yield f"| {seeds} | {design.name} | {' | '.join(cells)} |"
    for name, title, covered in (
        ("row", "Rows, covered", True),
        ("other", "Two equal methods, told apart", False),
        ("same", "One method with other seeds, told apart", False),
    ):
        yield ""
        yield f"{title}, by the seeds' share of the variance of one value:"
        yield ""
        yield "| seeds | design | " + " | ".join(f"{share:g}" for share in SEED_SHARES) + " |"
        yield "| ---: | --- |" + " ---: |" * len(SEED_SHARES)
        for seeds, design in itertools.product(SEEDS, chosen):
            cells = [percent(found[seeds, design.name, share], name, covered=covered) for share in SEED_SHARES]
            yield f"| {seeds} | {design.name} | {' | '.join(cells)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=4000)
    parser.add_argument("--quick", action="store_true", help="one design only")
    given = parser.parse_args()
    for line in report(given.repeats, given.quick):
        print(line, flush=True)


if __name__ == "__main__":
    main()
