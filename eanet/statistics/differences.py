"""Intervals and tests over seeds, from one number a seed, and over images; and their correction for many arms."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from eanet.statistics.power import LEVEL

ONE_SEED = "n = 1: one run says nothing about the spread between seeds"
ROUNDING = 1e-12  # what equal differences of accuracies can seem to vary by


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its Student t interval, which is NaN for n = 1, where nothing tells the spread."""

    n: int
    mean: float
    deviation: float  # sample standard deviation, NaN for n = 1
    half_width: float  # of the 95% interval, before it is cut to what the values can be
    low: float  # the ends of the interval after that
    high: float


def estimate(values: Sequence[float], limits: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """Estimate the mean of a normal population from a sample of at least one.

    limits are what the values can be: a t interval knows nothing of them, and is cut there.
    """
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Estimate(1, mean, *[math.nan] * 4)
    deviation = float(np.std(values, ddof=1))
    half_width = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * deviation / math.sqrt(n)
    return Estimate(
        n, mean, deviation, half_width, max(limits[0], mean - half_width), min(limits[1], mean + half_width)
    )


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference of two means and the evidence for it."""

    test: str  # paired t | Welch t | none
    n: tuple[int, int]  # values on each side that entered
    mean: float
    half_width: float  # of the 95% interval; NaN without a test
    p_value: float  # two-sided; NaN without a test
    standard_error: float  # of the mean; NaN without a test
    df: float  # its degrees of freedom; NaN without a test
    deviation: float  # of the difference between two runs, one of each arm; NaN without a test
    why_no_test: str = ""


def difference(ours: dict[int, float], theirs: dict[int, float]) -> Difference:
    """Compare two arms, each a mapping from seed to value, ours minus theirs.

    Paired over the seeds that both have if there are at least two (a seed fixes the data order and the
    augmentation of both), by Welch's test where no pairs are to be had, by no test where one side has one value.
    """
    common = sorted(ours.keys() & theirs.keys())
    if len(common) >= 2:
        pairs = np.array([[ours[seed], theirs[seed]] for seed in common])
        differences = pairs[:, 0] - pairs[:, 1]
        n, mean = len(common), float(np.mean(differences))
        deviation = float(np.std(differences, ddof=1))
        unvaried = "the differences do not vary between seeds"
        return _tested("paired t", (n, n), mean, deviation / math.sqrt(n), n - 1, deviation, unvaried)
    a, b = list(ours.values()), list(theirs.values())
    mean = float(np.mean(a) - np.mean(b))
    if min(len(a), len(b)) < 2:
        return untested((len(a), len(b)), mean, ONE_SEED)
    variances = [float(np.var(side, ddof=1)) for side in (a, b)]
    parts = [variance / len(side) for variance, side in zip(variances, (a, b), strict=True)]
    squares = sum(part**2 / (len(side) - 1) for part, side in zip(parts, (a, b), strict=True))
    df = sum(parts) ** 2 / squares if squares else len(a) + len(b) - 2.0
    unvaried = "the values do not vary between seeds"
    deviation = math.sqrt(sum(variances))
    return _tested("Welch t", (len(a), len(b)), mean, math.sqrt(sum(parts)), df, deviation, unvaried)


def untested(n: tuple[int, int], mean: float, why: str) -> Difference:
    """Return a difference of which there is no test, and why."""
    return Difference("none", n, mean, *[math.nan] * 5, why)


def _tested(
    test: str, n: tuple[int, int], mean: float, error: float, df: float, deviation: float, unvaried: str
) -> Difference:
    if error < ROUNDING:  # the seeds agree: no spread, no test
        return untested(n, mean, unvaried)
    half_width = float(stats.t.ppf((1 + LEVEL) / 2, df)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, df))
    return Difference(test, n, mean, half_width, p_value, error, df, deviation)


def mcnemar(ours: np.ndarray, theirs: np.ndarray, alternative: str = "two-sided") -> float:
    """Return the exact p-value of McNemar's test on two networks' answers to the same images.

    ours and theirs are bool [images], True where the network is right; alternative is two-sided, greater (ours
    is right more often) or less. Raises ValueError if their shapes differ.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"answers to {ours.shape[0]} and to {theirs.shape[0]} images cannot be compared")
    only_ours, only_theirs = int(np.sum(ours & ~theirs)), int(np.sum(~ours & theirs))
    if only_ours + only_theirs == 0:
        return 1.0
    return float(stats.binomtest(only_ours, only_ours + only_theirs, alternative=alternative).pvalue)


def combine_p_values(p_values: Sequence[float]) -> float:
    """Combine p-values of any dependence into one: twice their median (Vovk & Wang 2020 treat such averages)."""
    return min(1.0, 2 * float(np.median(p_values))) if len(p_values) > 1 else float(p_values[0])


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979); NaN stays NaN and does not count."""
    order = [i for i in np.argsort(p_values) if not math.isnan(p_values[i])]
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
