"""Power and numbers of seeds against simulation, and against published and hand-computed values."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eanet import statistics

_RUNS = 4000


def test_the_detectable_difference_is_found_four_times_in_five():
    """With the true standard error; a run's own estimate of it varies."""
    generator = np.random.default_rng(3)
    n, deviation = 4, 0.02
    error = deviation * math.sqrt(2 / n)
    effect = statistics.detectable_difference(error, 2 * n - 2)
    a = generator.normal(effect, deviation, (4000, n))
    b = generator.normal(0, deviation, (4000, n))
    found = np.mean(stats.ttest_ind(a, b, axis=1).pvalue < 0.05)
    assert found == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("n, true", [(3, 0.0), (3, 1.5), (5, 1.5), (20, 0.5)])
def test_the_power_of_a_paired_t_test_is_how_often_it_rejects(n, true):
    draws = np.random.default_rng(0).normal(true, 1, (_RUNS, n))
    found = np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05)
    assert statistics.power_of_difference(true, 1 / math.sqrt(n), n - 1) == pytest.approx(found, abs=0.02)


@pytest.mark.parametrize("df", [1, 2, 5, 30])
@pytest.mark.parametrize("tests", [1, 10])
def test_the_power_is_a_number_however_large_the_difference(df, tests):
    """SciPy's distribution has gaps there. Against the average over what the standard error may be estimated as."""
    critical = stats.t.ppf(1 - 0.05 / 2 / tests, df)
    estimated = np.sqrt(stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, df) / df)
    for true in np.linspace(0, 3 * critical + 45, 46):
        expected = np.mean(stats.norm.sf(critical * estimated - true) + stats.norm.cdf(-critical * estimated - true))
        assert statistics.power_of_difference(true, 1.0, df, tests) == pytest.approx(expected, abs=1e-3)


def test_a_narrower_spread_never_takes_more_seeds():
    """In steps of 0.01 points, for a difference of 1 point: among them some at which SciPy gives NaN."""
    seeds = [statistics.seeds_for_difference(0.01, deviation / 10_000, paired=True) for deviation in range(1, 60)]
    assert seeds == sorted(seeds) and (seeds[0], seeds[10]) == (2, 3)


@pytest.mark.parametrize("n, true, margin", [(4, 0.0, 2.0), (10, 0.0, 1.0), (10, 0.5, 1.0), (10, 1.0, 1.0)])
def test_the_power_of_equivalence_is_how_often_both_one_sided_tests_reject(n, true, margin):
    draws = np.random.default_rng(1).normal(true, 1, (_RUNS, n))
    p_values = [
        stats.ttest_1samp(draws, bound, axis=1, alternative=side).pvalue
        for bound, side in ((-margin, "greater"), (margin, "less"))
    ]
    found = np.mean(np.maximum(*p_values) < 0.05)
    power = statistics.power_of_equivalence(margin, 1 / math.sqrt(n), n - 1, true)
    assert power == pytest.approx(found, abs=0.02)
    if true == margin:
        assert power <= 0.05  # the error that the test allows


@pytest.mark.parametrize("paired", [True, False])
def test_seeds_are_the_fewest_with_the_power(paired):
    for deviation in (0.3, 1.0, 4.0):
        for seeds, power in (
            (statistics.seeds_for_difference(1.0, deviation, paired), statistics.power_of_difference),
            (
                statistics.seeds_for_equivalence(1.0, deviation, paired, 0.2),
                lambda true, error, df: statistics.power_of_equivalence(true, error, df, 0.2),
            ),
        ):
            reached = [
                power(1.0, deviation / math.sqrt(n), (n - 1) * (1 if paired else 2)) >= 0.8
                for n in (seeds - 1, seeds)
                if n > 1
            ]
            assert reached in ([False, True], [True])  # the second where two seeds are enough


def test_a_textbook_number_of_pairs():
    """A paired difference of one deviation at 5% two-sided with 80% power takes 10 pairs (Cohen 1988)."""
    assert statistics.seeds_for_difference(1.0, 1.0, paired=True) == 10


def test_what_no_number_of_seeds_shows_has_none():
    assert statistics.seeds_for_difference(1e-6, 1.0, paired=True) is None
    assert statistics.seeds_for_difference(0.0, 1.0, paired=True) is None
    for true in (1.0, -1.0, 1.5):
        assert statistics.seeds_for_equivalence(1.0, 0.1, paired=True, true=true) is None


def test_superiority_takes_noethers_number_of_seeds():
    """By hand: (1.95996 + 0.84162)² / (6 · 0.0625) = 20.93; one-sided with 95% power, 2 · 1.64485 squared, 28.86."""
    assert statistics.seeds_for_superiority(0.75) == 21
    assert math.ceil((2 * stats.norm.ppf(0.95)) ** 2 / (6 * 0.25**2)) == 29  # what Bouthillier et al. recommend
    generator = np.random.default_rng(2)
    shift = math.sqrt(2) * stats.norm.ppf(0.75)  # of normal populations with P(A > B) = 0.75
    a, b = generator.normal(shift, 1, (500, 21)), generator.normal(0, 1, (500, 21))
    found = np.mean(stats.mannwhitneyu(a, b, axis=1, method="asymptotic").pvalue < 0.05)
    assert found == pytest.approx(0.8, abs=0.06)
    for probability in (0.5, 1.0, 0.2, math.nan):
        with pytest.raises(ValueError, match=f"probability={probability}"):
            statistics.seeds_for_superiority(probability)


def test_of_several_tests_each_has_its_part_of_the_level():
    """Three arms that do not differ: Bonferroni's chance of any error is 5%, and the power is at that level."""
    draws = np.random.default_rng(6).normal(1.0, 1, (_RUNS, 8))
    p_values = stats.ttest_1samp(draws, 0, axis=1).pvalue
    power = statistics.power_of_difference(1.0, 1 / math.sqrt(8), 7, tests=3)
    assert power == pytest.approx(np.mean(p_values < 0.05 / 3), abs=0.02)
    bounds = [
        stats.ttest_1samp(draws, bound, axis=1, alternative=side).pvalue
        for bound, side in ((-3.0, "greater"), (3.0, "less"))
    ]
    power = statistics.power_of_equivalence(3.0, 1 / math.sqrt(8), 7, 1.0, tests=3)
    assert power == pytest.approx(np.mean(np.maximum(*bounds) < 0.05 / 3), abs=0.02)
    for paired in (True, False):
        one, three = (statistics.seeds_for_difference(1.0, 1.0, paired, tests) for tests in (1, 3))
        assert three > one
        one, three = (statistics.seeds_for_equivalence(1.0, 1.0, paired, tests=tests) for tests in (1, 3))
        assert three > one
    detectable = statistics.detectable_difference(1.0, 7, tests=3)
    assert statistics.power_of_difference(detectable, 1.0, 7, tests=3) == pytest.approx(0.8, abs=1e-3)


@given(st.floats(0.51, 0.99), st.floats(0.51, 0.99))
def test_what_is_plainer_takes_fewer_seeds(one, other):
    low, high = sorted((one, other))
    assert statistics.seeds_for_superiority(low) >= statistics.seeds_for_superiority(high) >= 1
    assert statistics.seeds_for_difference(low, 1.0, True) >= statistics.seeds_for_difference(high, 1.0, True) >= 2


@pytest.mark.parametrize("df", [2, 4, 20])
def test_the_limit_of_a_deviation_is_above_it_in_four_of_five_cases(df):
    draws = np.random.default_rng(4).normal(0, 1, (_RUNS, df + 1))
    limits = [statistics.deviation_limit(float(deviation), df) for deviation in draws.std(axis=1, ddof=1)]
    assert np.mean(np.array(limits) > 1) == pytest.approx(0.8, abs=0.02)
