"""Statistical power: what a number of seeds can show, and how many seeds a claim needs.

A deviation here is that of the difference between two runs, one of each arm: over common seeds if they are paired, else
the root of the sum of both arms' variances.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, stats

LEVEL = 0.95  # of every interval; tests are at 1 - LEVEL
POWER = 0.8  # with which what is there should be found
MOST_SEEDS = 10_000  # that are considered

_QUANTILES = (np.arange(2000) + 0.5) / 2000  # over which a chance is averaged


def detectable_difference(error: float, df: float, tests: int = 1) -> float:
    """Return the smallest true difference that a two-sided t test at 5% finds with 80% power.

    error is the standard error of the difference as estimated, df its degrees of freedom. With several tests, each has
    its part of the 5% (Bonferroni; Holm's correction begins with the same and may find more). Found by
    inverting the noncentral t distribution; the far tail's chance of the wrong sign is left out.
    """
    critical = stats.t.ppf(1 - (1 - LEVEL) / 2 / tests, df)
    shift = optimize.brentq(lambda x: float(stats.nct.sf(critical, df, x)) - POWER, 0.0, 10 * critical + 10)
    return float(shift) * error


def power_of_difference(true: float, error: float, df: float, tests: int = 1) -> float:
    """Return the chance that a two-sided t test at 5% finds a true difference.

    With several tests, each has its part of the 5%. The chance is averaged over what the standard error may be
    estimated as: SciPy's noncentral t distribution would be the same, but is NaN in places.
    """
    reach = float(stats.t.ppf(1 - (1 - LEVEL) / 2 / tests, df)) * _estimated_errors(df)
    shift = abs(true) / error
    return float(np.mean(stats.norm.sf(reach - shift) + stats.norm.cdf(-reach - shift)))


def power_of_equivalence(margin: float, error: float, df: float, true: float = 0.0, tests: int = 1) -> float:
    """Return the chance that two one-sided tests at 5% find a true difference within the margin (Phillips 1990).

    The means must lie within margin - t * (estimated error); that error varies as a chi distribution, over which the
    chance is averaged. With several tests, each has its part of the 5%.
    """
    reach = margin - float(stats.t.ppf(1 - (1 - LEVEL) / tests, df)) * error * _estimated_errors(df)
    inside = stats.norm.cdf((reach - true) / error) - stats.norm.cdf((-reach - true) / error)
    return float(np.mean(np.where(reach > 0, inside, 0.0)))


def seeds_for_difference(true: float, deviation: float, paired: bool, tests: int = 1) -> int | None:
    """Return the seeds of each arm with which a true difference is found with 80% power; None above 10,000."""
    return _fewest(lambda n: power_of_difference(true, deviation / math.sqrt(n), _freedom(n, paired), tests))


def seeds_for_equivalence(
    margin: float, deviation: float, paired: bool, true: float = 0.0, tests: int = 1
) -> int | None:
    """Return the seeds of each arm with which equivalence is found with 80% power; None above 10,000.

    true is the difference that there is: the nearer to the margin, the more seeds it takes.
    """
    if abs(true) >= margin:
        return None
    return _fewest(lambda n: power_of_equivalence(margin, deviation / math.sqrt(n), _freedom(n, paired), true, tests))


def seeds_for_superiority(probability: float) -> int:
    """Return the seeds of each arm with which P(A > B) = probability is told from 1/2 with 80% power at 5%, two-sided.

    Noether's formula (JASA 82, 1987) for the Wilcoxon-Mann-Whitney test, which knows no deviation. Bouthillier et al.
    (arXiv 2103.03098) use it one-sided with 95% power: 29 seeds for 0.75, where this gives 21. Raises ValueError
    for a probability that is not above 1/2 and below 1.
    """
    if not 0.5 < probability < 1:
        raise ValueError(f"probability={probability}; accepted: above 0.5 and below 1")
    quantiles = float(stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(POWER))
    return math.ceil(quantiles**2 / (6 * (probability - 0.5) ** 2))


def deviation_limit(deviation: float, df: float) -> float:
    """Return the upper 80% limit of a deviation that was estimated with so many degrees of freedom (Browne 1995).

    A plan made with it has its power in four of five cases; one made with the estimate itself in fewer than half of
    them, and in a third with an estimate from two seeds.
    """
    return deviation * math.sqrt(df / float(stats.chi2.ppf(1 - POWER, df)))


@functools.lru_cache(maxsize=512)
def _estimated_errors(df: float) -> np.ndarray:
    """Return what a standard error of 1 may be estimated as, at evenly spaced quantiles of the chi distribution."""
    return np.sqrt(stats.chi2.ppf(_QUANTILES, df) / df)


def _freedom(seeds: int, paired: bool) -> int:
    return seeds - 1 if paired else 2 * (seeds - 1)


def _fewest(power: Callable[[int], float]) -> int | None:
    """Return the smallest number of seeds, 2 at least, that has the power; it grows with them."""
    low, high = 1, 2
    while power(high) < POWER:
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if power(middle) < POWER else (low, middle)
    return high if high <= MOST_SEEDS else None
