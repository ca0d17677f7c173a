"""Where the spread over seeds comes from: arms that differ in config.fixed, each source of randomness by itself."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from eanet import statistics
from eanet.compare.arm import Arm
from eanet.errors import UserError
from eanet.training.members import SOURCES

_TAILS = ((1 + statistics.LEVEL) / 2, (1 - statistics.LEVEL) / 2)


@dataclasses.dataclass(frozen=True)
class Spread:
    """The deviation of an arm's test accuracy over seeds if only some sources of randomness follow the seed."""

    arm: str  # without config.fixed
    varied: tuple[str, ...]  # names of SOURCES
    n: int
    deviation: float
    low: float  # the ends of its 95% interval, from the chi-square distribution
    high: float
    ratio: float  # of the variance to that with all sources; NaN for that one, and without it
    ratio_low: float  # the ends of its 95% interval, from the F distribution
    ratio_high: float


def by_source(arms: Sequence[Arm]) -> list[Spread]:
    """Return the spread of each arm of two seeds or more, those that differ in config.fixed alone next to one another.

    Raises UserError if no arms differ in it.
    """
    groups: dict[str, list[tuple[tuple[str, ...], list[float]]]] = {}
    for arm in arms:
        fixed = arm.runs[0].fields["fixed"]
        if any(run.fields["fixed"] != fixed for run in arm.runs):
            raise UserError("--variance and --by: runs of one arm differ in config.fixed; add fixed to --by")
        varied = tuple(source for source in SOURCES if source not in fixed)
        values = list(arm.values("test/accuracy").values())
        if varied and len(values) > 1:
            groups.setdefault(arm.name_without("fixed"), []).append((varied, values))
    if all(len(group) == 1 for group in groups.values()):
        raise UserError(
            "--variance: no arms of two seeds differ in config.fixed; accepted: the runs of sweeps/variance.yaml, e.g."
        )
    spreads = []
    for name, group in groups.items():
        whole = next((values for varied, values in group if len(varied) == len(SOURCES)), [])
        for varied, values in sorted(group, key=lambda one: (-len(one[0]), [*SOURCES].index(one[0][0]))):
            deviation, df = float(np.std(values, ddof=1)), len(values) - 1
            low, high = (deviation * math.sqrt(df / float(stats.chi2.ppf(tail, df))) for tail in _TAILS)
            ratio = [math.nan] * 3 if values is whole else _ratio(values, whole)
            spreads.append(Spread(name, varied, len(values), deviation, low, high, *ratio))
    return spreads


def _ratio(values: Sequence[float], whole: Sequence[float]) -> list[float]:
    """Return the ratio of two sample variances with its 95% interval.

    The interval is that of independent samples, although both hold the run of seed 0.
    """
    if len(whole) < 2 or np.ptp(whole) < statistics.ROUNDING:
        return [math.nan] * 3
    ratio = float(np.var(values, ddof=1) / np.var(whole, ddof=1))
    return [ratio, *(ratio / float(stats.f.ppf(tail, len(values) - 1, len(whole) - 1)) for tail in _TAILS)]
