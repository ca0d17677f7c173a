"""Whether two arms are alike: the two one-sided tests of equivalence within a margin."""

import dataclasses
import math

from scipy import stats

from eanet.statistics.differences import Difference
from eanet.statistics.power import LEVEL


@dataclasses.dataclass(frozen=True)
class Equivalence:
    """What speaks for a difference within ± margin; all of it is NaN if the difference has no test."""

    margin: float
    p_value: float  # the larger one of the two one-sided tests
    low: float  # the ends of the 90% interval: within the margin if and only if p < 5%
    high: float


def equivalence(difference: Difference, margin: float) -> Equivalence:
    """Test a difference for equivalence by two one-sided t tests at 5% (Schuirmann 1987).

    The null hypotheses are "behind by the margin or more" and "ahead by the margin or more"; a p-value above 5% is not
    evidence of a difference. Raises ValueError for a margin that is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"margin={margin}; accepted: a number above 0")
    if difference.test == "none":
        return Equivalence(margin, *[math.nan] * 3)
    mean, error, df = difference.mean, difference.standard_error, difference.df
    p_value = max(stats.t.sf((mean + margin) / error, df), stats.t.cdf((mean - margin) / error, df))
    half_width = float(stats.t.ppf(LEVEL, df)) * error
    return Equivalence(margin, float(p_value), mean - half_width, mean + half_width)
