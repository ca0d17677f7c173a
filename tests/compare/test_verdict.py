"""The three verdicts, and how many seeds an open one takes."""

import math
import re

import numpy as np
import pytest

from eanet import statistics
from eanet.compare.verdict import points, seeds_to_decide, verdict

_SEEDS = range(5)
_NOISE = (-0.004, 0.002, 0.0, 0.003, -0.001)  # mean 0, deviation 0.00274


def _difference(mean, scale=1.0):
    ours = {seed: 0.5 + mean + scale * noise for seed, noise in zip(_SEEDS, _NOISE, strict=True)}
    return statistics.difference(ours, dict.fromkeys(_SEEDS, 0.5))


def _verdict(mean, margin=0.01, scale=1.0):
    difference = _difference(mean, scale)
    return verdict(difference, difference.p_value, margin, statistics.equivalence(difference, margin).p_value)


def test_each_verdict():
    assert _verdict(0.03) == "different"
    assert _verdict(0.0005) == "equivalent within 1 point"
    assert _verdict(0.006, margin=0.02) == "different, and equivalent within 2 points"
    assert _verdict(0.0, scale=10).startswith("undecided: about ")
    assert re.fullmatch(r"undecided: about \d+ \(\d+\) seeds would decide it", _verdict(0.0, scale=10))
    assert _verdict(0.01, scale=10_000) == "undecided: more than 10,000 seeds would decide it"


def test_p_values_are_taken_as_they_come_corrected():
    difference = _difference(0.03)
    assert verdict(difference, 0.06, 0.01, 1.0).startswith("undecided")
    assert verdict(difference, 0.06, 0.05, 0.04) == "equivalent within 5 points"


@pytest.mark.parametrize("mean, margin", [(0.0, 0.01), (0.02, 0.01), (0.004, 0.01)])
def test_the_seeds_named_are_those_with_which_either_test_decides(mean, margin):
    difference = _difference(mean, scale=5)
    seeds = seeds_to_decide(difference, margin, difference.deviation)

    def power(n):
        error = difference.deviation / math.sqrt(n)
        return max(
            statistics.power_of_difference(mean, error, n - 1),
            statistics.power_of_equivalence(margin, error, n - 1, mean),
        )

    assert power(seeds - 1) < 0.8 <= power(seeds)


def test_the_bracket_has_the_seeds_for_the_upper_limit_of_the_deviation():
    difference = _difference(0.0, scale=10)
    limit = statistics.deviation_limit(difference.deviation, 4)
    numbers = [seeds_to_decide(difference, 0.01, deviation) for deviation in (difference.deviation, limit)]
    assert f"about {numbers[0]} ({numbers[1]}) seeds" in _verdict(0.0, scale=10) and numbers[0] < numbers[1]


@pytest.mark.parametrize("tests", [2, 5, 10])
@pytest.mark.parametrize("mean", [0.0, 0.002, 0.004, 0.006])
def test_an_open_verdict_names_more_seeds_than_there_are_however_many_arms_are_tested(mean, tests):
    difference = _difference(mean)
    equivalence = statistics.equivalence(difference, 0.005)
    corrected = [min(1.0, tests * p) for p in (difference.p_value, equivalence.p_value)]
    said = verdict(difference, corrected[0], 0.005, corrected[1], tests)
    if min(corrected) >= 0.05:
        assert int(re.search(r"about ([\d,]+)", said)[1].replace(",", "")) > len(_SEEDS)
    else:
        assert "undecided" not in said


def test_adding_seeds_until_a_test_decides_makes_more_errors_than_it_allows():
    """As docs/statistics.md warns: three seeds, and once the number that is named if they do not decide."""
    generator, runs = np.random.default_rng(0), 1000
    wrong = 0
    for _ in range(runs):
        values = generator.normal(0, 0.004, 300)
        first = statistics.difference(dict(enumerate(values[:3])), dict.fromkeys(range(3), 0.0))
        found = first.p_value < 0.05
        if not found:
            more = min(statistics.seeds_for_difference(first.mean, first.deviation, True) or 300, 300)
            more = max(more, 4)
            found = (
                statistics.difference(dict(enumerate(values[:more])), dict.fromkeys(range(more), 0.0)).p_value < 0.05
            )
        wrong += found
    assert 0.07 < wrong / runs < 0.2


def test_one_seed_gives_no_verdict():
    difference = statistics.difference({0: 0.5}, {0: 0.4})
    assert verdict(difference, math.nan, 0.01, math.nan).startswith("no verdict: n = 1")


def test_points_in_words():
    assert (points(0.01), points(0.005), points(0.02)) == ("1 point", "0.5 points", "2 points")
