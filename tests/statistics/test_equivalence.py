"""The two one-sided tests against SciPy's, by hand, and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from eanet import statistics

_A = {0: 0.521, 1: 0.534, 2: 0.518, 3: 0.527}
_B = {0: 0.519, 1: 0.529, 2: 0.521, 3: 0.524}


def test_by_hand():
    """Differences 1, 2, 3: mean 2, error 1/√3; against 5, t = (2 - 5)·√3 = -5.196, p = 0.0176 with two degrees."""
    result = statistics.equivalence(statistics.difference({0: 1.0, 1: 2.0, 2: 3.0}, dict.fromkeys(range(3), 0.0)), 5.0)
    assert result.p_value == pytest.approx(0.017550, abs=1e-5)
    assert (result.low, result.high) == pytest.approx((2 - 2.919986 / math.sqrt(3), 2 + 2.919986 / math.sqrt(3)))


@pytest.mark.parametrize("shared", [True, False])
def test_p_is_the_larger_one_of_two_one_sided_tests_of_scipy(shared):
    theirs = _B if shared else {seed + 10: value for seed, value in _B.items() if seed}
    result = statistics.equivalence(statistics.difference(_A, theirs), 0.01)
    a, b = np.array(list(_A.values())), np.array(list(theirs.values()))

    def one_sided(bound, side):
        if shared:
            return stats.ttest_rel(a, b + bound, alternative=side).pvalue
        return stats.ttest_ind(a, b + bound, equal_var=False, alternative=side).pvalue

    assert result.p_value == pytest.approx(max(one_sided(-0.01, "greater"), one_sided(0.01, "less")))


def test_the_90_percent_interval_lies_within_the_margin_exactly_where_p_is_below_5_percent():
    generator = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        ours, theirs = (dict(enumerate(generator.normal(0, 1, 5))) for _ in range(2))
        result = statistics.equivalence(statistics.difference(ours, theirs), 1.5)
        within = -1.5 < result.low and result.high < 1.5
        assert within == (result.p_value < 0.05)
        seen.add(within)
    assert seen == {True, False}


@pytest.mark.parametrize("shared", [True, False])
def test_arms_that_differ_by_the_margin_are_called_equivalent_in_5_percent(shared):
    generator = np.random.default_rng(1)
    called = 0
    for _ in range(2000):
        effect = generator.normal(0, 0.5, 5)
        ours = dict(enumerate(generator.normal(1.0, 0.3, 5) + effect))
        theirs = dict(enumerate(generator.normal(0.0, 0.3, 5) + effect * shared, start=0 if shared else 100))
        called += statistics.equivalence(statistics.difference(ours, theirs), 1.0).p_value < 0.05
    assert called / 2000 == pytest.approx(0.05, abs=0.02)


def test_without_a_test_of_the_difference_there_is_none():
    result = statistics.equivalence(statistics.difference({0: 0.5}, {0: 0.4}), 0.1)
    assert all(map(math.isnan, (result.p_value, result.low, result.high))) and result.margin == 0.1


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan])
def test_a_margin_that_holds_nothing_is_refused(margin):
    with pytest.raises(ValueError, match=f"margin={margin}"):
        statistics.equivalence(statistics.difference(_A, _B), margin)
