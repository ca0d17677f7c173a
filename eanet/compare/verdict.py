"""What may be said of an arm against the baseline if a margin of equivalence is given: one of three verdicts."""

from eanet import statistics
from eanet.statistics import Difference


def verdict(difference: Difference, p_value: float, margin: float, p_equivalence: float) -> str:
    """Say whether an arm is different from the baseline, equivalent to it within a margin, or neither is shown.

    p_value is that of the difference and p_equivalence that of the two one-sided tests, both corrected for the table;
    the margin is a fraction. Undecided, it names the number of seeds that would decide it, if the difference and its
    deviation are what they seem to be.
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
    seeds = seeds_to_decide(difference, margin)
    return f"undecided: {f'about {seeds:,}' if seeds else f'more than {statistics.MOST_SEEDS:,}'} seeds would decide it"


def points(fraction: float) -> str:
    """Return a fraction as percentage points in words, e.g. 1 point, 0.5 points."""
    number = f"{100 * fraction:g}"
    return f"{number} point{'s' * (number != '1')}"


def seeds_to_decide(difference: Difference, margin: float) -> int | None:
    """Return the seeds of each arm with which one of the two tests has 80% power; None above 10,000."""
    paired, true, deviation = difference.test == "paired t", difference.mean, difference.deviation
    needed = (
        statistics.seeds_for_difference(true, deviation, paired),
        statistics.seeds_for_equivalence(margin, deviation, paired, true),
    )
    return min((seeds for seeds in needed if seeds), default=None)
