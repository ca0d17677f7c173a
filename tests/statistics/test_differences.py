"""Intervals and tests against scipy, hand-computed values, and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eanet import statistics

_A = {0: 0.521, 1: 0.534, 2: 0.518, 3: 0.527}
_B = {0: 0.509, 1: 0.526, 2: 0.511, 3: 0.514}


def test_an_interval_is_the_t_interval():
    """By hand: deviation of 1, 2, 3 is 1, t(0.975; 2) = 4.302653, so 4.302653 / √3."""
    result = statistics.estimate([1.0, 2.0, 3.0])
    assert (result.n, result.mean, result.deviation) == (3, 2.0, 1.0)
    assert result.half_width == pytest.approx(2.484138, abs=1e-6)
    low, high = stats.t.interval(0.95, 3, np.mean(list(_A.values())), stats.sem(list(_A.values())))
    result = statistics.estimate(list(_A.values()))
    assert result.mean + result.half_width == pytest.approx(high) and result.mean - result.half_width == pytest.approx(
        low
    )


def test_one_value_has_no_interval():
    result = statistics.estimate([0.5])
    assert result.mean == 0.5 and math.isnan(result.half_width) and math.isnan(result.deviation)


def test_an_interval_is_cut_to_what_values_can_be():
    values = [0.01, 0.03]
    free, cut = statistics.estimate(values), statistics.estimate(values, (0.0, 1.0))
    assert (free.low, free.high) == pytest.approx(stats.t.interval(0.95, 1, 0.02, stats.sem(values))) and free.low < 0
    assert (cut.low, cut.high, cut.half_width) == (0.0, free.high, free.half_width)
    top = statistics.estimate([0.97, 0.99], (0.0, 1.0))
    assert top.high == 1.0 and top.low == pytest.approx(0.98 - free.half_width)


def test_differences_that_only_rounding_tells_apart_are_no_evidence():
    ours, theirs = {0: 0.42, 1: 0.44, 2: 0.4225}, {0: 0.09, 1: 0.11, 2: 0.0925}
    assert len({ours[seed] - theirs[seed] for seed in ours}) > 1  # 0.33 but for rounding
    result = statistics.difference(ours, theirs)
    assert result.test == "none" and math.isnan(result.p_value) and result.mean == pytest.approx(0.33)
    assert result.why_no_test == "the differences do not vary between seeds"


def test_common_seeds_are_paired():
    result = statistics.difference(_A, _B)
    reference = stats.ttest_rel(list(_A.values()), list(_B.values()))
    low, high = reference.confidence_interval(0.95)
    assert result.test == "paired t" and result.n == (4, 4)
    assert result.p_value == pytest.approx(reference.pvalue)
    assert (result.mean - result.half_width, result.mean + result.half_width) == pytest.approx((low, high))


def test_pairing_goes_by_seed_and_not_by_order():
    shuffled = {seed: _B[seed] for seed in (3, 1, 0, 2)}
    assert statistics.difference(_A, shuffled) == statistics.difference(_A, _B)
    other = {seed + 1: value for seed, value in _B.items()}  # seeds 1 to 4: three in common
    result = statistics.difference(_A, other)
    assert result.n == (3, 3)
    assert result.p_value == pytest.approx(stats.ttest_rel([_A[1], _A[2], _A[3]], [_B[0], _B[1], _B[2]]).pvalue)


def test_seeds_that_are_not_shared_take_welch():
    other = {seed + 10: value for seed, value in _B.items() if seed}
    result = statistics.difference(_A, other)
    reference = stats.ttest_ind(list(_A.values()), list(other.values()), equal_var=False)
    low, high = reference.confidence_interval(0.95)
    assert result.test == "Welch t" and result.n == (4, 3)
    assert result.p_value == pytest.approx(reference.pvalue)
    assert (result.mean - result.half_width, result.mean + result.half_width) == pytest.approx((low, high))


@pytest.mark.parametrize(("ours", "theirs"), [({0: 0.5}, {0: 0.4}), ({0: 0.5}, _B), (_A, {9: 0.1})])
def test_one_seed_gives_no_p_value_and_says_why(ours, theirs):
    result = statistics.difference(ours, theirs)
    assert result.test == "none" and "n = 1" in result.why_no_test
    assert math.isnan(result.p_value) and math.isnan(result.half_width) and math.isnan(result.deviation)


def test_values_without_spread_give_no_p_value():
    result = statistics.difference({0: 0.5, 1: 0.5}, {0: 0.25, 1: 0.25})
    assert result.test == "none" and result.mean == 0.25 and "do not vary" in result.why_no_test


def _draws(generator, n):
    return generator.normal(0.7, 0.02, (2000, n))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_95_percent_intervals_cover_in_93_to_97_percent(n):
    values = _draws(np.random.default_rng(n), n)
    estimates = [statistics.estimate(row) for row in values]
    covered = np.mean([abs(e.mean - 0.7) <= e.half_width for e in estimates])
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("shared", [True, False])
def test_intervals_of_differences_cover(shared):
    """Welch's freedom is an approximation, and holds for unequal deviations and sizes too."""
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(2000):
        seed_effect = generator.normal(0, 0.03, 4) if shared else np.zeros(4)
        ours = dict(enumerate(generator.normal(0.70, 0.02, 4) + seed_effect))
        theirs = generator.normal(0.65, 0.01, 4 if shared else 6)
        theirs = dict(enumerate(theirs + seed_effect)) if shared else dict(enumerate(theirs, start=100))
        result = statistics.difference(ours, theirs)
        covered += abs(result.mean - 0.05) <= result.half_width
    assert 0.93 <= covered / 2000 <= 0.97


def test_mcnemar_is_the_exact_binomial_test():
    """9 images only ours gets right, 2 only theirs: 2 · Σ_{k≤2} C(11, k) / 2^11 = 134 / 2048."""
    ours = np.array([True] * 9 + [False] * 2 + [True] * 50 + [False] * 40)
    theirs = np.array([False] * 9 + [True] * 2 + [True] * 50 + [False] * 40)
    assert statistics.mcnemar(ours, theirs) == pytest.approx(134 / 2048)
    assert statistics.mcnemar(ours, theirs) == statistics.mcnemar(theirs, ours)
    assert statistics.mcnemar(ours, ours) == 1.0
    with pytest.raises(ValueError, match="101 and to 3"):
        statistics.mcnemar(ours, np.array([True, False, True]))


def test_combined_p_values_are_valid_whatever_their_dependence():
    generator = np.random.default_rng(0)
    base = generator.normal(size=(4000, 1))
    for dependence in (0.0, 0.7, 1.0):
        z = math.sqrt(dependence) * base + math.sqrt(1 - dependence) * generator.normal(size=(4000, 3))
        p_values = 2 * stats.norm.sf(np.abs(z))
        combined = np.array([statistics.combine_p_values(row) for row in p_values])
        assert np.mean(combined < 0.05) <= 0.06
    assert statistics.combine_p_values([0.03]) == 0.03 and statistics.combine_p_values([0.01, 0.02, 0.5]) == 0.04


def test_holm_on_a_known_example():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = statistics.holm([0.02, math.nan, 0.03])
    assert adjusted[0] == pytest.approx(0.04) and math.isnan(adjusted[1]) and adjusted[2] == pytest.approx(0.04)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_never_lowers(p_values):
    adjusted = statistics.holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    by_size = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[by_size]) >= 0)
    assert adjusted[by_size[0]] == pytest.approx(min(1.0, len(p_values) * min(p_values)))
