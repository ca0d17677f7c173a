"""What a comparison has found, in a sentence or two: as far as its statistics go, and no further."""

import math
from collections.abc import Mapping

from eanet import statistics
from eanet.compare.comparison import WHY_NOT_FIXED, BaselineComparison, Comparison
from eanet.compare.verdict import points
from eanet.training.members import SOURCES


def finding(comparison: Comparison) -> str:
    """Say which arms are ahead of the baseline in test accuracy and by how much, or that these seeds cannot tell.

    The spread by source comes first, if it was asked for.
    """
    base = comparison.baseline.name
    versus = {name: one for name, one in comparison.versus.items() if one.difference.why_no_test != WHY_NOT_FIXED}
    spreads = _of_spreads(comparison)
    if comparison.versus and not versus:
        return spreads or f"{WHY_NOT_FIXED.capitalize()}; --variance compares their spread."
    return f"{spreads} {_in_accuracy(comparison, base, versus)}".lstrip()


def _in_accuracy(comparison: Comparison, base: str, versus: Mapping[str, BaselineComparison]) -> str:
    if not versus:
        return _alone(comparison)
    tested = {name: one for name, one in versus.items() if not math.isnan(one.p_holm)}
    if not tested:
        return _untested(base, versus)
    corrected = "Holm-corrected " if len(tested) > 1 else ""
    found = {name: one for name, one in tested.items() if one.p_holm < 1 - statistics.LEVEL}
    said = _found(base, versus, found, corrected) if found else _not_found(base, tested, corrected)
    if len(tested) < len(versus):
        said += "; arms of one seed, or without variation, have no p-value over seeds"
    return f"{said}.{_verdicts(comparison, tested)}"


def _verdicts(comparison: Comparison, tested: Mapping[str, BaselineComparison]) -> str:
    """Add the verdict on each arm, if a margin was given."""
    if not comparison.margin:
        return ""
    said = []
    for name, one in tested.items():
        low, high = 100 * one.equivalence.low, 100 * one.equivalence.high
        whom = f"{name}: " if len(tested) > 1 else ""
        said.append(f"{whom}{one.verdict} (90% interval {low:+.2f} to {high:+.2f})")
    return f" With a margin of {points(comparison.margin)}: {'; '.join(said)}."


def _of_spreads(comparison: Comparison) -> str:
    """Return the deviation of every arm by what varies, without a ranking; empty if it was not asked for."""
    said = []
    for one in comparison.spreads:
        what = "all sources" if len(one.varied) == len(SOURCES) else ", ".join(one.varied)
        whose = f"{one.arm}, " if len({other.arm for other in comparison.spreads}) > 1 else ""
        said.append(f"{whose}{what} {100 * one.deviation:.2f} ({100 * one.low:.2f} to {100 * one.high:.2f})")
    start = "Deviation of test accuracy over seeds, in points with 95% intervals, by what follows the seed"
    return f"{start}: {'; '.join(said)}." if said else ""


def _alone(comparison: Comparison) -> str:
    arm, estimate = comparison.baseline, comparison.baseline.estimate("test/accuracy")
    spread = "one seed has no interval"
    if estimate.n > 1:
        spread = f"{statistics.LEVEL:.0%} interval {estimate.low:.2%} to {estimate.high:.2%}, n = {estimate.n}"
    return f"{arm.name}: test accuracy {estimate.mean:.2%} ({spread}); there is no other arm to compare it with."


def _untested(base: str, versus: Mapping[str, BaselineComparison]) -> str:
    name = _largest(versus)
    difference = versus[name].difference
    why = "The differences do not vary between seeds, so that there is no test of them"
    if any(min(one.difference.n) == 1 for one in versus.values()):
        why = "One seed gives no p-value over seeds"
    only = "" if len(versus) == 1 else "the largest difference is that "
    end = "other seeds may turn that round" if difference.mean else "other seeds may tell them apart"
    return f"{why}: {only}{name} is {_way(difference.mean)} {base} in test accuracy here, and {end}."


def _found(
    base: str, versus: Mapping[str, BaselineComparison], found: Mapping[str, BaselineComparison], corrected: str
) -> str:
    """Name the arms that differ from the baseline; of many the one furthest ahead and the one furthest behind."""
    order = sorted(found, key=lambda name: found[name].difference.mean)
    ahead = [name for name in order if found[name].difference.mean > 0]
    named = order[::-1] if len(order) < 3 else [*ahead[-1:], *(order[:1] if len(ahead) < len(order) else [])]
    clauses = []
    for name in named:
        one = found[name]
        clause = f"{name} is {_way(one.difference.mean)} {base} ({_evidence(one, corrected)})"
        clauses.append("; ".join([clause, *(note for note in one.notes if note.startswith("not matched"))]))
    if len(versus) == 1:
        return f"In test accuracy {clauses[0]}"
    counts = f"{len(ahead)} ahead, {len(order) - len(ahead)} behind"
    start = f"{len(found)} of {len(versus)} arms differ" if len(found) > 1 else f"1 of {len(versus)} arms differs"
    most = "the furthest: " if len(found) > len(named) else ""
    return f"In test accuracy {start} from the baseline ({counts}); {most}{'; '.join(clauses)}"


def _not_found(base: str, tested: Mapping[str, BaselineComparison], corrected: str) -> str:
    name = _largest(tested)
    one = tested[name]
    whom, which = (
        f"any of {len(tested)} arms from the baseline",
        f"the largest difference seen: {name} is {_way(one.difference.mean)} {base}",
    )
    if len(tested) == 1:
        whom, which = f"{name} from {base}", f"{100 * one.difference.mean:+.2f} points"
    return (
        f"These seeds cannot tell {whom} in test accuracy: {which} ({_evidence(one, corrected)}); only a true "
        f"difference of {100 * one.detectable:.2f} points or more would be likely to be seen"
    )


def _largest(versus: Mapping[str, BaselineComparison]) -> str:
    return max(versus, key=lambda name: abs(versus[name].difference.mean))


def _way(difference: float) -> str:
    if not difference:
        return "level with"
    return f"{100 * abs(difference):.2f} points {'ahead of' if difference > 0 else 'behind'}"


def _evidence(versus: BaselineComparison, corrected: str) -> str:
    difference = versus.difference
    low, high = (100 * min(1, max(-1, difference.mean + sign * difference.half_width)) for sign in (-1, 1))
    p = "p < 0.001" if versus.p_holm < 0.001 else f"p = {versus.p_holm:.3f}"
    n = difference.n[0] if difference.test == "paired t" else " and ".join(map(str, difference.n))
    return f"{statistics.LEVEL:.0%} interval {low:+.2f} to {high:+.2f}, {corrected}{p}, n = {n}"
