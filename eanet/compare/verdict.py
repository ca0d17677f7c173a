"""What may be said of an arm against the baseline if a margin of equivalence is given: one of three verdicts."""

from eanet import statistics
from eanet.statistics import Difference


def verdict(difference: Difference, p_value: float, margin: float, p_equivalence: float, tests: int = 1) -> str:
    """Say whether an arm is different from the baseline, equivalent to it within a margin, or neither is shown.

    p_value is that of the difference and p_equivalence that of the two one-sided tests, both corrected for the tests of
    the table; the margin is a fraction. Undecided, it names the number of seeds that would decide it if the difference
    and its deviation are as estimated, and in brackets if the deviation is at its upper 80% limit.
    """
    if difference.test == "none":
        return f"no verdict: {difference.why_no_test}"
    level = 1 - statistics.LEVEL
    within = f"within {points(margin)}"
    if p_value < level and p_equivalence < level:
        return f"different, and equivalent {within}"
    if p_value < level:
        return "different"
    if p_equivalence < level:
        return f"equivalent {within}"
    limit = statistics.deviation_limit(difference.deviation, difference.df)
    likely, careful = (
        seeds_to_decide(difference, margin, deviation, tests) for deviation in (difference.deviation, limit)
    )
    if not likely:
        return f"undecided: {_count(likely)} seeds would decide it"
    return f"undecided: about {_count(likely)} ({_count(careful)}) seeds would decide it"


def _count(seeds: int | None) -> str:
    return f"{seeds:,}" if seeds else f"more than {statistics.MOST_SEEDS:,}"


def points(fraction: float) -> str:
    """Return a fraction as percentage points in words, e.g. 1 point, 0.5 points."""
    number = f"{100 * fraction:g}"
    return f"{number} point{'s' * (number != '1')}"


def seeds_to_decide(difference: Difference, margin: float, deviation: float, tests: int = 1) -> int | None:
    """Return the seeds of each arm with which one of the two tests has 80% power; None above 10,000.

    deviation is that of the difference between two runs. Of several tests each has its part of the 5%, which is as
    strict as Holm's correction may be.
    """
    paired, true = difference.test == "paired t", difference.mean
    needed = (
        statistics.seeds_for_difference(true, deviation, paired, tests),
        statistics.seeds_for_equivalence(margin, deviation, paired, true, tests),
    )
    return min((seeds for seeds in needed if seeds), default=None)
