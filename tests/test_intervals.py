"""Intervals over seeds and clusters: against scipy, against plain loops, and by how often they cover."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fashiongen import intervals
from fashiongen.intervals import Moments, holm, interval, interval_of_one_run, moments, over_seeds

STUDY = Path(__file__).parents[1] / "benchmarks" / "studies" / "intervals.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("study_of_intervals", STUDY)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def ends(found):
    return None if found is None else (found.low, found.high)


def test_one_run_of_independent_samples_has_student_s_interval():
    """An exact level: an interval at 90 % or at 99 % fails."""
    values = np.random.default_rng(1).normal(3.0, 1.0, 60)
    found = interval_of_one_run(values, [str(index) for index in range(60)])
    assert found == pytest.approx(stats.t.interval(0.95, 59, loc=values.mean(), scale=stats.sem(values)))
    assert interval_of_one_run(np.append(values, np.nan), list(range(61))) is None
    assert interval_of_one_run(values[:1], [0]) is None
    assert interval_of_one_run(values, [0] * 60) is None  # one cluster: nothing says how clusters vary
    assert interval_of_one_run(np.full(60, 0.1), list(range(60))) is None


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_rows_that_differ_only_between_seeds_have_student_s_interval_over_seeds(seeds):
    means = np.random.default_rng(seeds).normal(0.5, 0.1, seeds)
    expected = stats.t.interval(0.95, seeds - 1, loc=means.mean(), scale=stats.sem(means))
    values = np.repeat(means[:, None], 30, axis=1)
    assert ends(interval(values, range(30))) == pytest.approx(expected)
    assert over_seeds(list(means)) == pytest.approx(expected)
    assert over_seeds([0.5]) is None
    other = np.random.default_rng(99).normal(0.5, 0.3, 4)
    found = interval(values, range(30), np.repeat(other[:, None], 30, axis=1))
    welch = stats.ttest_ind(means, other, equal_var=False)
    assert ends(found) == pytest.approx(tuple(welch.confidence_interval()))
    assert found.p == pytest.approx(welch.pvalue) and found.seeds == (seeds, 4)


def test_a_deterministic_method_has_the_interval_of_one_run_however_often_it_ran():
    values = np.random.default_rng(2).normal(0.0, 1.0, (1, 50))
    clusters = [index // 3 for index in range(50)]
    once, thrice = interval(values, clusters), interval(values.repeat(3, axis=0), clusters)
    assert ends(thrice) == pytest.approx(ends(once)) and once.high - once.low > 0.3 and (once.clusters, once.samples) == (17, 50)


def test_equal_clusters_have_the_components_of_the_crossed_analysis_of_variance():
    generator = np.random.default_rng(3)
    seeds, count = 4, 12
    values = generator.normal(0, 1, (seeds, count)) + generator.normal(0, 2, (seeds, 1)) + generator.normal(0, 3, count)
    row, column, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
    between_seeds = count * ((row - mean) ** 2).sum() / (seeds - 1)
    between_clusters = seeds * ((column - mean) ** 2).sum() / (count - 1)
    interaction = ((values - row[:, None] - column + mean) ** 2).sum() / ((seeds - 1) * (count - 1))
    for size in (1.0, 5.0):
        found = moments([values], np.full(count, size), np.asarray(1.0))
        assert found.seeds == pytest.approx(between_seeds / (seeds * count)) and found.seeds_df == pytest.approx(seeds - 1)
        assert found.samples == pytest.approx((between_clusters - interaction) / (seeds * count)) and found.samples_df == count - 1


def test_a_negative_component_counts_as_zero():
    """Two clusters that move against each other: between the clusters' means there is less than the interaction explains."""
    values = np.array([[1.0, -1.0], [-1.0, 1.0], [0.0, 0.1]])
    found = moments([values], np.ones(2), np.asarray(0.0))
    assert found.samples == 0.0 and found.seeds > 0.0


def test_the_variance_over_unequal_clusters_is_the_jackknife_s_and_its_freedom_that_of_its_quadratic_form():
    generator = np.random.default_rng(4)
    sizes = np.array([9, 1, 1, 2, 4, 3])
    code = np.repeat(np.arange(6), sizes)
    values = generator.normal(0, 1, 20) + generator.normal(0, 1, 6)[code]
    without = np.array([values[code != cluster].mean() for cluster in range(6)])
    means = np.array([values[code == cluster].mean() for cluster in range(6)])
    within = ((values - means[code]) ** 2).sum() / 14
    found = moments([means[None]], sizes.astype(float), np.asarray(within))
    assert found.mean == pytest.approx(values.mean())
    assert found.samples == pytest.approx(5 / 6 * ((without - values.mean()) ** 2).sum())
    # The quadratic form as matrices, with the correlation of the one-way analysis of variance.
    between = (sizes * (means - values.mean()) ** 2).sum() / 5
    cluster = max(between - within, 0.0) / ((20 - (sizes**2).sum() / 20) / 5)
    correlation = cluster / (cluster + within)
    assert 0 < correlation < 1
    weights = sizes / 20
    residuals = np.eye(6) - weights
    form = residuals.T @ np.diag(5 / 6 * (weights / (1 - weights)) ** 2) @ residuals
    product = form @ np.diag(correlation + (1 - correlation) / sizes)
    assert found.samples_df == pytest.approx(np.trace(product) ** 2 / np.trace(product @ product))
    assert found.samples_df < 4
    shuffled = generator.permutation(20)
    one, other = interval(values[None], code.tolist()), interval(values[None][:, shuffled], [f"c{code[index]}" for index in shuffled])
    assert ends(one) == pytest.approx(ends(other)) and ends(one) == pytest.approx(
        (found.mean - found.half_width(), found.mean + found.half_width())
    )


def test_the_p_value_is_the_level_at_which_the_interval_ends_at_zero():
    found = Moments(np.array([1.0, -0.3]), np.array([0.1, 0.02]), np.array([2.0, 3.5]), np.array([0.05, 0.2]), np.array([40.0, 7.0]))
    p = found.p_value()
    assert [float(found.half_width(1 - one)[index]) for index, one in enumerate(p)] == pytest.approx([1.0, 0.3])
    assert np.all((np.abs(found.mean) > found.half_width()) == (p < 0.05))


def test_samples_without_a_value_in_any_run_are_left_out():
    values = np.random.default_rng(5).normal(0, 1, (3, 40))
    holes, less = values.copy(), np.random.default_rng(6).normal(0, 1, (2, 40))
    holes[1, 3], less[0, 7] = np.nan, np.inf
    kept = [index for index in range(40) if index not in (3, 7)]
    found = interval(holes, range(40), less)
    assert found == interval(values[:, kept], kept, less[:, kept]) and found.samples == 38
    assert interval(np.full((2, 5), np.nan), range(5)) is None


def test_rows_that_differ_by_rounding_are_equal_and_a_constant_difference_is_one():
    values = np.random.default_rng(7).normal(2, 1, (1, 30))
    equal = interval(values * (1 + 1e-12), range(30), values)
    assert (equal.mean, ends(equal), equal.p) == (0.0, (0.0, 0.0), 1.0)
    apart = interval(values + 0.5, range(30), values)
    assert ends(apart) == pytest.approx((0.5, 0.5)) and apart.p < 1e-6


def test_holm_adjusts_as_published():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == [] and holm([0.02]) == [0.02]


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_and_equal_methods_are_not_told_apart(study, seeds):
    """The study at few shares; the bounds are 92 to 98 % and 8 %, with 2,000 repeats known to 1 %."""
    design = study.designs()[2]
    assert np.ptp(design.sizes) > 5
    generator = np.random.default_rng(seeds)
    for seed, cluster, interaction in ((0.0, 0.3, 0.2), (0.02, 0.6, 0.0), (0.1, 0.0, 0.2), (0.6, 0.3, 0.0)):
        part = study.Shares(seed, cluster, interaction)
        counts = study.simulate(design, part, seeds, 2000, generator, old=False)
        assert 0.92 <= 1 - counts.row / counts.repeats <= 0.98, part
        assert counts.other / counts.repeats <= 0.08 and counts.same / counts.repeats <= 0.08, part


def test_the_level_is_neither_90_nor_99_percent(study):
    """Where nothing is approximate, the simulated coverage is 95 %: 20,000 repeats know it to 0.5 %."""
    design = study.Design("", np.ones(60))
    counts = study.simulate(design, study.Shares(0.0, 0.5, 0.0), 1, 20_000, np.random.default_rng(8), old=False)
    assert 0.945 <= 1 - counts.row / counts.repeats <= 0.955


def test_two_clusters_have_one_degree_of_freedom():
    """Their means leave one difference, whatever their sizes."""
    sizes = np.array([1.0, 3.0])
    found = intervals._cluster_df(np.array([[0.3, -0.1]]), sizes, np.array([0.2]), sizes / 4, np.array([0.5, 0.7]))
    assert found == pytest.approx([1.0])


def test_two_clusters_are_enough_for_an_interval_and_one_is_not():
    values = np.array([[0.1, 0.2, 0.6, 0.7]])
    assert intervals.interval(values, ["a", "a", "b", "b"]) is not None
    assert intervals.interval(values, ["a", "a", "a", "a"]) is None
