"""How many seeds an answer needs: python -m eanet.plan --margin=1.0 (--runs=DIR | --deviation=0.4) [--sweep=FILE].

Prints the seeds of each arm with which a difference of the margin, or equivalence within it, is found with 80% power at
5%, and what they cost as measured in the runs. --deviation is that of one arm over seeds, in points of test accuracy.
"""

import dataclasses
import math
import pathlib
import sys
from typing import Any

import ml_collections
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eanet import cli, cost, statistics
from eanet.compare import comparison, finished_run
from eanet.compare.verdict import points
from eanet.errors import UserError
from eanet.model.footprint import Footprint
from eanet.sweep import file as sweep_file
from eanet.sweep import point as sweep_point
from eanet.sweep import search
from eanet.training import members

_PROBABILITY = 0.75  # of being ahead, for which the number of seeds is shown


@dataclasses.dataclass(frozen=True)
class Spread:
    """How much the difference between two runs, one of each arm, varies over seeds."""

    name: str
    deviation: float  # a fraction
    df: float  # with which it was estimated; infinite for one that was given
    paired: bool  # are the seeds shared, so that a seed's part in the spread cancels?
    hours: float  # of a seed of both arms; NaN where it was not measured


@dataclasses.dataclass(frozen=True)
class Seeds:
    """The seeds of each arm that a claim takes; None for more than 10,000."""

    difference: int | None
    equivalence: int | None  # if the arms are alike
    equivalence_apart: int | None  # if they differ by half of the margin


def seeds_needed(margin: float, deviation: float, paired: bool, tests: int = 1) -> Seeds:
    """Return the seeds for a difference of the margin, and for equivalence within it; both are fractions.

    So many tests, one for each arm against the baseline, share the 5%.
    """
    return Seeds(
        statistics.seeds_for_difference(margin, deviation, paired, tests),
        statistics.seeds_for_equivalence(margin, deviation, paired, tests=tests),
        statistics.seeds_for_equivalence(margin, deviation, paired, margin / 2, tests),
    )


def spreads_of_runs(result: comparison.Comparison) -> list[Spread]:
    """Return the spread of each arm against the baseline, and of a single arm against another one like it.

    Raises UserError if no arm has two seeds, or no spread.
    """
    base = result.baseline
    if not result.versus:
        estimate = base.estimate("test/accuracy")
        if estimate.n > 1 and estimate.deviation > statistics.ROUNDING:
            return [Spread(base.name, math.sqrt(2) * estimate.deviation, estimate.n - 1.0, False, 2 * _hours(base))]
    spreads = [
        Spread(arm.name, one.deviation, one.df, one.test == "paired t", _hours(arm) + _hours(base))
        for arm in result.arms
        if arm is not base and (one := result.versus[arm.name].difference).test != "none"
    ]
    if not spreads:
        counts = "; ".join(f"{arm.name}: {len(arm.runs)}" for arm in result.arms)
        why = {one.difference.why_no_test for one in result.versus.values()}
        why = why or {statistics.ONE_SEED if len(base.runs) == 1 else "the seeds of the arm do not vary"}
        raise UserError(
            f"--runs: no spread to plan with, seeds of {counts}: {'; '.join(sorted(why))}; accepted: runs of two seeds "
            "or more of each arm, or --deviation"
        )
    return spreads


def _hours(arm: comparison.Arm) -> float:
    return arm.estimate("seconds").mean / 3600


def hours_of_sweep(path: str, runs: list[finished_run.FinishedRun]) -> list[tuple[str, float, str]]:
    """Return the name, the hours of one seed, and the run that they follow from, of each point of a sweep file.

    A point takes the time of the run with the same attention whose multiply-adds are nearest, scaled by multiply-adds
    and epochs. Raises UserError if the sweep is of other data than the runs.
    """
    sweep = sweep_file.load(path)
    found: dict[str, tuple[str, float, str]] = {}
    for values in (search.grid if sweep.method == "grid" else search.random)(sweep):
        point = sweep_point.make_point(sweep, values, [], pathlib.Path())
        fields = point.config | {"seed": 0, "num_seeds": 1}
        key = repr(sorted(finished_run.rules.flatten(fields).items()))
        if key in found:
            continue
        for field in ("name", "train_limit"):
            if fields["data"][field] != runs[0].fields[f"data.{field}"]:
                raise UserError(
                    f"--sweep={path} has config.data.{field}={fields['data'][field]!r}, the runs "
                    f"{runs[0].fields[f'data.{field}']!r}; accepted: the same, because hours follow from them"
                )
        mmac = Footprint(*cost.of_config(ml_collections.ConfigDict(fields))).mmac
        run = min(runs, key=lambda run: (_other_attention(run, fields), abs(math.log(run.results["mmac"] / mmac))))
        epochs = fields["train"]["epochs"] / run.fields["train.epochs"]
        networks = len(members.members_from_config(fields))
        hours = run.results["seconds"] / 3600 * epochs * networks * mmac / run.results["mmac"]
        name = sweep_point.varied(sweep, {name: value for name, value in values.items() if name != "config.seed"})
        found[key] = (name or cli.config_name(str(values.get("config", path))), hours, run.name)
    return list(found.values())


def _other_attention(run: finished_run.FinishedRun, fields: dict[str, Any]) -> bool:
    return run.fields["model.attention"] != fields["model"]["attention"]


def table_of(spreads: list[Spread], margin: float, tests: int) -> Table:
    """Return a row per spread: seeds and hours, with those for the 80% limit of the deviation in brackets."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("arm", overflow="fold", min_width=min(32, max(len(one.name) for one in spreads)))
    for title in ("deviation", "difference", "equivalence", "equivalence, half apart", "hours"):
        table.add_column(title, justify="right")
    for one in spreads:
        limit = _limit(one)
        likely, careful = (seeds_needed(margin, deviation, one.paired, tests) for deviation in (one.deviation, limit))
        seeds = [
            _range(getattr(likely, field.name), getattr(careful, field.name)) for field in dataclasses.fields(Seeds)
        ]
        hours = "–" if math.isnan(one.hours) else _range(*(_hours_of(one, each) for each in (likely, careful)))
        table.add_row(Text(one.name), _range(f"{100 * one.deviation:.2f}", f"{100 * limit:.2f}"), *seeds, hours)
    return table


def _limit(spread: Spread) -> float:
    """Return the upper 80% limit of a deviation, or the deviation itself if it was given."""
    return statistics.deviation_limit(spread.deviation, spread.df) if math.isfinite(spread.df) else spread.deviation


def _hours_of(spread: Spread, seeds: Seeds) -> str:
    return f"{seeds.equivalence * spread.hours:,.1f}" if seeds.equivalence else "more"


def _range(likely: Any, careful: Any) -> str:
    likely, careful = (f"> {statistics.MOST_SEEDS:,}" if value is None else str(value) for value in (likely, careful))
    return likely if likely == careful else f"{likely} ({careful})"


def main() -> None:
    """Parse the command line and print the plan."""
    parser = cli.Parser("python -m eanet.plan", __doc__)
    parser.add_argument("--margin", required=True, help="points of test accuracy that matter")
    parser.add_argument("--runs", default="", help="directory of finished runs, for the spread and the time")
    parser.add_argument("--deviation", default="", help="of one arm over seeds, in points, instead of runs")
    parser.add_argument("--baseline", default="", help="an arm of the runs by its fields (default: the first)")
    parser.add_argument("--sweep", default="", help="a sweep file: what its arms would take, as the runs did")
    arguments = parser.parse_args()
    margin = cli.positive_number("--margin", arguments.margin, 100) / 100
    if bool(arguments.runs) == bool(arguments.deviation):
        raise UserError("--runs or --deviation: one of both says how much seeds differ; accepted: exactly one")
    if arguments.sweep and not arguments.runs:
        raise UserError(f"--sweep={arguments.sweep} needs --runs: hours follow from measured ones")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160  # a file has no edge to fold at
    if arguments.deviation:
        deviation = cli.positive_number("--deviation", arguments.deviation, 100) / 100
        spreads = [Spread("as given, not paired", math.sqrt(2) * deviation, math.inf, False, math.nan)]
        notes, rows = [], []
    else:
        cli.check_directory("--runs", arguments.runs, new=False)
        runs, notes = finished_run.find_runs([arguments.runs])
        spreads = spreads_of_runs(comparison.compare(runs, (), arguments.baseline, notes))
        rows = hours_of_sweep(arguments.sweep, runs) if arguments.sweep else []
    tests = max(1, len(rows) - 1 if rows else len(spreads))
    console.print(table_of(spreads, margin, tests))
    console.print()
    for line in _explanations(spreads, margin, tests):
        console.print(f"- {line}", markup=False, soft_wrap=True)
    if arguments.sweep:
        console.print()
        console.print(_cost_of_sweep(arguments.sweep, rows, spreads, margin))
    for note in notes:
        console.print(f"- {note}", markup=False, soft_wrap=True)


def _explanations(spreads: list[Spread], margin: float, tests: int) -> list[str]:
    within, power = points(margin), f"{statistics.POWER:.0%}"
    shared = f", which {tests} tests against the baseline share (Bonferroni)" if tests > 1 else ""
    lines = [
        "Deviation: of the difference in test accuracy between two runs, one of each arm, in points.",
        f"Difference: seeds of each arm that find a true difference of {within} with {power} power at 5%{shared}. "
        "Equivalence: "
        f"those that show arms to be equivalent within {within} if they are alike, or half of it apart. Hours: of the "
        "seeds of both arms that equivalence takes, as measured.",
        f"To tell an arm that is ahead in {_PROBABILITY:.0%} of pairs of seeds from one that is ahead in half of them "
        f"takes {statistics.seeds_for_superiority(_PROBABILITY)} seeds of each by a rank test, whatever the deviation.",
    ]
    if any(math.isfinite(one.df) for one in spreads):
        lines.insert(1, f"In brackets: with its upper {power} limit, because few seeds say little of a deviation.")
    return lines


def _cost_of_sweep(path: str, rows: list[tuple[str, float, str]], spreads: list[Spread], margin: float) -> Table:
    """Return the hours of each arm with the seeds that the widest spread takes, in brackets those of its limit."""
    tests = max(1, len(rows) - 1)
    likely, careful = (
        max(seeds_needed(margin, deviation, one.paired, tests).equivalence or math.inf for one, deviation in each)
        for each in ([(one, one.deviation) for one in spreads], [(one, _limit(one)) for one in spreads])
    )
    if math.isinf(likely):
        raise UserError(f"--sweep={path}: with this spread equivalence takes more than {statistics.MOST_SEEDS:,} seeds")
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(f"arm of {path}", overflow="fold", min_width=12)
    for title in ("hours a seed", f"hours of {_range(likely, None if math.isinf(careful) else careful)} seeds"):
        table.add_column(title, justify="right")
    table.add_column("as measured in", overflow="fold")
    for name, hours, run in [*rows, ("all", sum(hours for _, hours, _ in rows), "")]:
        cost_of = [f"{seeds * hours:,.1f}" if math.isfinite(seeds) else "more" for seeds in (likely, careful)]
        table.add_row(Text(name), f"{hours:,.2f}", _range(*cost_of), Text(run))
    return table


if __name__ == "__main__":
    sys.exit(cli.run(main))
