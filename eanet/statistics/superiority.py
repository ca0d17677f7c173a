"""How likely one arm is ahead of another with a new seed."""

import dataclasses
import math

from scipy import optimize, stats

from eanet.statistics.differences import Difference
from eanet.statistics.power import LEVEL

_LARGEST = 1000.0  # t that the noncentral distribution is computed for; beyond it every probability is 0 or 1


@dataclasses.dataclass(frozen=True)
class Superiority:
    """The probability that a new run of one arm is ahead of one of the other, with its 95% interval; NaN without."""

    probability: float
    low: float
    high: float


def superiority(difference: Difference) -> Superiority:
    """Estimate P(A > B) for a seed that was not tried, from a difference A - B of normal populations.

    It is Φ(mean / deviation), paired for the same new seed in both. The interval is that of the ratio by the noncentral
    t distribution (Steiger & Fouladi 1997): exact if paired, approximate if not, most of all where the arm with fewer
    seeds varies more. If one arm wins on all five seeds, counting alone would say no more than "above 0.48".
    """
    if difference.test == "none":
        return Superiority(*[math.nan] * 3)
    t, df = abs(difference.mean) / difference.standard_error, difference.df
    t = min(t, _LARGEST)
    ratio = difference.standard_error / difference.deviation  # 1 / √n if paired
    tail = (1 - LEVEL) / 2
    shifts = t, _noncentrality(t, df, 1 - tail), _noncentrality(t, df, tail)
    middle, low, high = (float(stats.norm.cdf(shift * ratio)) for shift in shifts)
    if difference.mean < 0:  # by symmetry; SciPy's distribution is not defined far below zero
        return Superiority(1 - middle, 1 - high, 1 - low)
    return Superiority(middle, low, high)


def _noncentrality(t: float, df: float, share: float) -> float:
    """Return the noncentrality with which a share of a noncentral t distribution lies below t."""

    def excess(shift: float) -> float:
        below = float(stats.nct.cdf(t, df, shift))
        return (float(shift < t) if math.isnan(below) else below) - share  # SciPy gives NaN far from t

    reach = 1.0
    while excess(t - reach) < 0 or excess(t + reach) > 0:  # the share below t falls with the shift
        reach *= 2
    return float(optimize.brentq(excess, t - reach, t + reach))
