"""The probability of being ahead against its definition, and its interval by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eanet import statistics


def test_it_is_the_share_of_a_normal_population_above_zero():
    """Differences 1, 2, 3 have mean 2 and deviation 1: Φ(2)."""
    result = statistics.superiority(statistics.difference({0: 1.0, 1: 2.0, 2: 3.0}, dict.fromkeys(range(3), 0.0)))
    assert result.probability == pytest.approx(stats.norm.cdf(2.0))
    low, high = (stats.norm.ppf(end) * math.sqrt(3) for end in (result.low, result.high))
    t = 2 * math.sqrt(3)
    assert (stats.nct.sf(t, 2, low), stats.nct.cdf(t, 2, high)) == pytest.approx((0.025, 0.025), abs=1e-4)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("n, true", [(3, 0.0), (5, 1.0)])
def test_its_interval_covers(shared, n, true):
    generator = np.random.default_rng(n)
    deviation = 0.5 if shared else math.hypot(0.3, 0.4)
    probability = stats.norm.cdf(true / deviation)
    covered = 0
    for _ in range(600):
        noise = generator.normal(0, 1, (2, n))
        ours = dict(enumerate(true + 0.3 * noise[0]))
        theirs = dict(enumerate(0.4 * noise[1], start=0 if shared else 100))
        result = statistics.superiority(statistics.difference(ours, theirs))
        covered += result.low <= probability <= result.high
    assert 0.925 <= covered / 600 <= 0.98


def test_an_arm_that_is_always_far_ahead_is_ahead_surely():
    result = statistics.superiority(statistics.difference({0: 0.5, 1: 0.51}, {0: 0.1, 1: 0.11 + 1e-9}))
    assert result.low > 0.99 and result.probability == 1.0
    turned = statistics.superiority(statistics.difference({0: 0.1, 1: 0.11 + 1e-9}, {0: 0.5, 1: 0.51}))
    assert turned.high < 0.01 and turned.probability == 0.0


@given(st.floats(-500, 500), st.integers(2, 200))
def test_its_interval_is_found_wherever_the_mean_is(mean, n):
    values = np.linspace(-1, 1, n)
    ours = dict(enumerate(values / np.std(values, ddof=1) + mean))
    result = statistics.superiority(statistics.difference(ours, dict.fromkeys(range(n), 0.0)))
    assert 0 <= result.low <= result.probability <= result.high <= 1
    assert result.probability == pytest.approx(stats.norm.cdf(mean), abs=1e-6)
    t, df = mean * math.sqrt(n), n - 1
    if 1e-9 < abs(t) < 5:  # SciPy's noncentral t has no value at 1e-140
        low, high = sorted(math.copysign(1, t) * stats.norm.ppf([result.low, result.high]) * math.sqrt(n))
        shares = stats.nct.sf(abs(t), df, low), stats.nct.cdf(abs(t), df, high)
        assert shares == pytest.approx((0.025, 0.025), abs=1e-3)


def test_one_seed_gives_none():
    result = statistics.superiority(statistics.difference({0: 0.5}, {0: 0.4}))
    assert all(map(math.isnan, (result.probability, result.low, result.high)))
