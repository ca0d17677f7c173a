"""Runs grouped into arms and set against a baseline. Reads records, and nothing but records."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from eanet import statistics
from eanet.compare.arm import Arm
from eanet.compare.finished_run import ACCURACIES, METRICS, FinishedRun
from eanet.compare.variance import Spread, by_source
from eanet.compare.verdict import verdict
from eanet.config import rules, stored
from eanet.errors import UserError
from eanet.statistics import Difference, Equivalence, SeedsAndImages, Superiority

COSTS = ("parameters", "mmac")  # costs that a fair comparison should match
MATCHED = 0.1  # largest relative difference at which a cost counts as matched

WHY_NOT_FIXED = "the arms differ in config.fixed alone, which changes what varies and not the method: no test of means"

# Fields that must be equal for accuracies to be measured on the same images.
_SAME = ("data.name", "data.validation_fraction", "data.test_fraction", "data.eval_limit")


@dataclasses.dataclass(frozen=True)
class BaselineComparison:
    """An arm against the baseline, by test accuracy."""

    difference: Difference
    with_images: SeedsAndImages  # how far it may be off, over new test images too
    superiority: Superiority  # of the arm on a new seed
    equivalence: Equivalence | None  # None if no margin is given
    equivalence_holm: float  # its p-value over the table; NaN without one
    verdict: str  # different, equivalent or undecided; empty if no margin is given
    detectable: float  # smallest true difference found with 80% power at 5%, the tests of the table considered
    p_holm: float  # of the difference, over the table; NaN without a test
    mcnemar: float  # over the images, over all pairs of runs
    mcnemar_holm: float
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All that the tables, pictures and the report show."""

    arms: list[Arm]
    baseline: Arm
    versus: dict[str, BaselineComparison]  # by the arm's name; the baseline has none
    margin: float  # of equivalence in test accuracy, as a fraction; 0 = not asked for
    spreads: list[Spread]  # by source of randomness; empty if not asked for
    also_differ: dict[str, list[Any]]  # fields that the arms are not named by, with their values
    notes: list[str]


def compare(
    runs: Sequence[FinishedRun],
    by: Sequence[str] = (),
    baseline: str = "",
    notes: Iterable[str] = (),
    margin: float = 0.0,
    variance: bool = False,
) -> Comparison:
    """Group runs by the fields in which they differ, or by `by`, and set each arm against one of them.

    baseline names an arm by some of its fields, e.g. model.attention=self,model.num_heads=4; empty = the first.
    margin is the difference in test accuracy, as a fraction, within which arms count as equivalent; 0 = not asked for.
    variance asks for the spread by source of randomness, of arms that differ in config.fixed.
    Raises UserError if runs are of different data or splits, or one arm holds a seed twice.
    """
    _check_same_data(runs)
    notes = [*notes, *_limit_notes(runs), *_environment_notes(runs)]
    differing = differing_fields(runs)
    chosen = _checked_by(by, runs) if by else distinguishing_fields(runs, differing)
    arms: dict[tuple, list[FinishedRun]] = {}
    for run in runs:
        arms.setdefault(tuple(run.fields[field] for field in chosen), []).append(run)
    ordered = sorted(arms, key=lambda key: [_rank(value) for value in key])
    made = [Arm(dict(zip(chosen, key, strict=True)), _one_a_seed(arms[key], differing, notes)) for key in ordered]
    also_differ = {field: differing[field] for field in differing if field not in chosen}
    base = _find_baseline(made, baseline)
    spreads = by_source(made) if variance else []
    return Comparison(made, base, _all_versus(made, base, margin), margin, spreads, also_differ, notes)


def check_same_split(runs: Sequence[Any]) -> None:
    """Raise UserError if runs, anything with a name and fields, are of different data or splits."""
    first = runs[0]
    for run in runs:
        for field in _SAME:
            if run.fields[field] != first.fields[field]:
                raise UserError(
                    f"config.{field} is {first.fields[field]!r} in {first.name} and {run.fields[field]!r} in "
                    f"{run.name}: accuracies on different images do not compare"
                )


def _check_same_data(runs: Sequence[FinishedRun]) -> None:
    check_same_split(runs)
    first = runs[0]
    for run in runs:
        if not np.array_equal(run.labels, first.labels) or run.class_names != first.class_names:
            raise UserError(f"{first.name} and {run.name} were tested on different images")


def _limit_notes(runs: Sequence[FinishedRun]) -> list[str]:
    limit = runs[0].fields["data.eval_limit"]
    return (
        [f"Validated and tested on the first {limit:,} images of each split only (data.eval_limit)."] if limit else []
    )


def _environment_notes(runs: Sequence[FinishedRun]) -> list[str]:
    """Return notes on runs of different code or machines: then not only the fields differ."""
    commits = {str((run.environment.get("git") or {}).get("commit"))[:8] for run in runs}
    devices = {", ".join(run.environment.get("devices") or ["unknown"]) for run in runs}
    said = {"commits": commits, "devices, between which timings and activation memory do not compare": devices}
    return [
        f"The runs differ in their {what}: {'; '.join(sorted(some))}." for what, some in said.items() if len(some) > 1
    ]


def differing_fields(runs: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the fields with an effect on the numbers, seed apart, that do not have one value in all runs."""
    differing = {}
    for field in rules.RULES:
        if field == "seed" or stored.without_effect(field):
            continue
        values = sorted({run.fields[field] for run in runs} - {None}, key=_rank)
        if len(values) > 1:  # if it is None it has no effect
            differing[field] = values
    return differing


def distinguishing_fields(runs: Sequence[Any], differing: dict[str, list[Any]]) -> list[str]:
    """Return the differing fields without those that follow from the ones before, as projection dropout may."""
    chosen: list[str] = []
    parts = 1
    for field in differing:
        finer = len({tuple(run.fields[name] for name in (*chosen, field)) for run in runs})
        if finer > parts:
            chosen, parts = [*chosen, field], finer
    return chosen


def _checked_by(by: Sequence[str], runs: Sequence[FinishedRun]) -> list[str]:
    for field in by:
        if field not in runs[0].fields or field == "seed":
            raise UserError(f"--by: {field!r}; accepted: fields of the configuration except seed, e.g. model.num_heads")
    return list(by)


def _one_a_seed(runs: list[FinishedRun], differing: dict[str, list[Any]], notes: list[str]) -> list[FinishedRun]:
    """Order an arm by seed; the same run made twice counts once, two different ones of a seed are an error."""
    kept: dict[int, FinishedRun] = {}
    for run in runs:
        other = kept.setdefault(run.seed, run)
        if other is run:
            continue
        fields = [field for field in differing if run.fields[field] != other.fields[field]]
        if fields:
            raise UserError(
                f"{other.name} and {run.name} fall into one arm with the same seed, but differ in "
                f"{', '.join(fields)}; add {'it' if len(fields) == 1 else 'them'} to --by"
            )
        same = all(run.results[metric] == other.results[metric] for metric in ACCURACIES)
        outcome = "the same accuracies" if same else "OTHER accuracies"
        notes.append(f"{run.name} repeats {other.name}, with {outcome}, and counts once.")
    return [kept[seed] for seed in sorted(kept)]


def _find_baseline(arms: list[Arm], text: str) -> Arm:
    wanted = dict(part.partition("=")[::2] for part in text.split(",")) if text else {}
    matching = [
        arm
        for arm in arms
        if all(_matches(run.fields.get(field), value) for field, value in wanted.items() for run in arm.runs)
    ]
    if not matching or (text and len(matching) > 1):
        names = "; ".join(",".join(f"{field}={value}" for field, value in arm.by.items()) for arm in arms)
        raise UserError(f"--baseline={text} fits {len(matching)} arms; accepted is what fits one of: {names}")
    return matching[0]


def _matches(value: Any, text: str) -> bool:
    """Return whether a value is what a person writes for it; 1e-3 is 0.001."""
    try:
        return value == float(text)
    except ValueError:
        return str(value) == text


def _all_versus(arms: list[Arm], base: Arm, margin: float) -> dict[str, BaselineComparison]:
    others = [arm for arm in arms if arm is not base]
    differences = [_difference(arm, base) for arm in others]
    equivalences = [statistics.equivalence(one, margin) if margin else None for one in differences]
    tests = max(1, sum(one.test != "none" for one in differences))
    pairs = [[] if _share_runs(arm, base) else _pairs(arm, base) for arm in others]
    mcnemars = [_mcnemar(some) if some else math.nan for some in pairs]
    p_holm, mcnemar_holm = statistics.holm([d.p_value for d in differences]), statistics.holm(mcnemars)
    equivalence_holm = statistics.holm([one.p_value if one else math.nan for one in equivalences])
    return {
        arm.name: BaselineComparison(
            difference=differences[i],
            with_images=_seeds_and_images(arm, base),
            superiority=statistics.superiority(differences[i]),
            equivalence=equivalences[i],
            equivalence_holm=equivalence_holm[i],
            verdict=verdict(differences[i], p_holm[i], margin, equivalence_holm[i], tests) if margin else "",
            detectable=_detectable(differences[i], tests),
            p_holm=p_holm[i],
            mcnemar=mcnemars[i],
            mcnemar_holm=mcnemar_holm[i],
            notes=_versus_notes(arm, base, len(pairs[i])),
        )
        for i, arm in enumerate(others)
    }


def _share_runs(arm: Arm, base: Arm) -> bool:
    """Return whether arms differ in nothing but what follows the seed: seed 0's run is the same in both."""
    return list(differing_fields([arm.runs[0], base.runs[0]])) == ["fixed"]


def _difference(arm: Arm, base: Arm) -> Difference:
    ours, theirs = arm.values("test/accuracy"), base.values("test/accuracy")
    if not _share_runs(arm, base):
        return statistics.difference(ours, theirs)
    mean = float(np.mean([*ours.values()]) - np.mean([*theirs.values()]))
    return statistics.untested((len(ours), len(theirs)), mean, WHY_NOT_FIXED)


def _detectable(difference: Difference, tests: int) -> float:
    if difference.test == "none":
        return math.nan
    return statistics.detectable_difference(difference.standard_error, difference.df, tests)


def _seeds_and_images(arm: Arm, base: Arm) -> SeedsAndImages:
    """Take the answers of the runs that entered the difference."""
    if _share_runs(arm, base):
        return SeedsAndImages(*[math.nan] * 3)
    common = {run.seed for run in arm.runs} & {run.seed for run in base.runs}
    paired = len(common) > 1
    ours, theirs = (
        np.stack([run.correct for run in side.runs if run.seed in common or not paired]) for side in (arm, base)
    )
    return statistics.seeds_and_images(ours, theirs, paired)


def _mcnemar(pairs: list[tuple[FinishedRun, FinishedRun]]) -> float:
    """Combine each direction by itself: pairs that differ in opposite directions are not evidence of a difference."""
    sided = [
        statistics.combine_p_values([statistics.mcnemar(a.correct, b.correct, direction) for a, b in pairs])
        for direction in ("greater", "less")
    ]
    return min(1.0, 2 * min(sided))


def _pairs(arm: Arm, base: Arm) -> list[tuple[FinishedRun, FinishedRun]]:
    """Pair runs by common seeds if two or more are common, else in the order of the seeds if that makes more pairs."""
    theirs = {run.seed: run for run in base.runs}
    common = [(run, theirs[run.seed]) for run in arm.runs if run.seed in theirs]
    in_order = list(zip(arm.runs, base.runs, strict=False))
    return common if len(common) > 1 or len(common) == len(in_order) else in_order


def _versus_notes(arm: Arm, base: Arm, pairs: int) -> list[str]:
    notes = ["McNemar's p is of two networks, not of the methods"] if pairs == 1 else []
    unmatched = []
    for metric in COSTS:
        ours, theirs = arm.estimate(metric), base.estimate(metric)
        if ours and theirs and abs(ours.mean / theirs.mean - 1) > MATCHED:
            unmatched.append(f"{METRICS[metric]} {ours.mean / theirs.mean:.2f}×")
    return [*notes, f"not matched: {', '.join(unmatched)} the baseline's"] if unmatched else notes


def _rank(value: Any) -> tuple[int, Any]:
    """Order numbers by size and everything else by its text."""
    return (0, value) if isinstance(value, (int, float)) else (1, str(value))
