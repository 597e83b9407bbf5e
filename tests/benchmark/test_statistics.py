"""Intervals over seeds, and the paired bootstrap."""

import numpy as np
import pytest
from scipy import stats

from fashiongen.benchmark.statistics import RESAMPLES, mean_over_seeds, paired_bootstrap


@pytest.mark.parametrize("values", [[0.5, 0.7], [2.05, 2.08, 2.02], [1.0, 1.0, 1.0, 1.0], [-3.0, 8.0, 1.0, 0.5, 2.0]])
def test_the_interval_over_seeds_is_scipys(values):
    mean, interval = mean_over_seeds(values)
    error = stats.sem(values)
    expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error) if error else (mean, mean)
    assert mean == pytest.approx(np.mean(values))
    assert interval == pytest.approx(expected)


def test_one_seed_has_no_interval_over_seeds():
    assert mean_over_seeds([0.25]) == (0.25, None)


def test_the_paired_bootstrap_detects_a_difference():
    generator = np.random.default_rng(1)
    noise = generator.normal(0, 1, 200)
    columns = np.stack([noise - noise.mean(), 0.4 + noise * 0.5, np.zeros(200)], axis=1)
    none, clear, equal = paired_bootstrap(columns)
    assert none.low < 0 < none.high and none.p > 0.5
    assert 0 < clear.low < clear.mean < clear.high and clear.p == pytest.approx(2 / (RESAMPLES + 1))
    assert (equal.mean, equal.low, equal.high, equal.p) == (0, 0, 0, 1)
    # Over many samples the percentile interval is close to the normal one.
    half = 1.96 * columns[:, 1].std(ddof=1) / np.sqrt(200)
    assert (clear.low, clear.high) == pytest.approx((clear.mean - half, clear.mean + half), abs=0.015)


def test_the_paired_bootstrap_repeats_itself_and_leaves_out_what_has_no_value():
    values = np.random.default_rng(2).normal(0.1, 1, (30, 1))
    holes = np.concatenate([values, np.full((5, 1), np.nan)])
    assert paired_bootstrap(values) == paired_bootstrap(values)
    (found,) = paired_bootstrap(holes)
    assert (found.samples, found.mean) == (30, pytest.approx(values.mean()))
    assert paired_bootstrap(np.full((5, 1), np.nan)) == [None]
    assert paired_bootstrap(np.ones((1, 2))) == [None, None]
