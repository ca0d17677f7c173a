"""A comparison as tables: for a terminal, Markdown, CSV, and the report."""

import csv
import dataclasses
import io
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from eanet.compare.arm import Arm
from eanet.compare.comparison import BaselineComparison, Comparison
from eanet.compare.explanations import explanations
from eanet.compare.finding import finding
from eanet.compare.finished_run import ACCURACIES, METRICS
from eanet.compare.variance import Spread
from eanet.statistics import Estimate, Superiority
from eanet.training.members import SOURCES

WORDS = ("arm", "test", "varies with the seed", "verdict", "notes")  # columns of text; the others are numbers
_WIDE = 160  # columns of a terminal that takes all of a table
_WIDE_ONLY = (
    *(METRICS[name] for name in ("activation_mib", "images_per_second", "images_per_second_inference", "seconds")),
    "± with images, points",
    "P(ahead) %",
    "McNemar p (Holm)",
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a table shows and what it is sorted by."""

    text: str
    value: float | str


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table: titles, and rows of cells."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]


def results(comparison: Comparison) -> Grid:
    """Return a row per arm: mean ± 95% interval of every metric."""
    arms = comparison.arms
    metrics = [name for name in METRICS if any(arm.estimate(name) for arm in arms)]
    rows = [
        [_text(arm.name), _number(len(arm.runs), "d"), *(_estimated(arm.estimate(m), m) for m in metrics)]
        for arm in arms
    ]
    titles = [METRICS[name] + (" %" if name in ACCURACIES else "") for name in metrics]
    return Grid("Results", ["arm", "n", *titles], rows)


def against_baseline(comparison: Comparison) -> Grid:
    """Return a row per arm but the baseline: the difference in test accuracy and what may be said of it."""
    asked = bool(comparison.margin)
    columns = ["arm", *["verdict"] * asked, "difference, points", "test", "p (Holm)", "McNemar p (Holm)"]
    columns += ["detectable, points", "± with images, points", "P(ahead) %"]
    columns += ["90% interval, points", "p of equivalence (Holm)"] * asked
    rows = []
    for arm in comparison.arms:
        if arm is comparison.baseline:
            continue
        versus = comparison.versus[arm.name]
        difference = versus.difference
        n = difference.n[0] if difference.test == "paired t" else " and ".join(map(str, difference.n))
        rows.append(
            [
                _text(arm.name),
                *[_text(versus.verdict)] * asked,
                Cell(_plus_minus(100 * difference.mean, 100 * difference.half_width, "+.2f"), difference.mean),
                _text(f"{difference.test}, n = {n}" if difference.test != "none" else "none"),
                _p_value(versus.p_holm),
                _p_value(versus.mcnemar_holm),
                _number(100 * versus.detectable, ".2f"),
                _number(100 * versus.with_images.half_width, ".2f"),
                _chance(versus.superiority),
                *(_equivalence(versus) if asked else []),
                _text("; ".join(_notes(versus))),
            ]
        )
    return Grid(f"Test accuracy against {comparison.baseline.name}", [*columns, "notes"], rows)


def spread_by_source(comparison: Comparison) -> Grid:
    """Return a row per arm and set of sources that vary: deviation, and variance relative to that with all sources."""
    columns = ["arm", "varies with the seed", "n", "deviation, points", "95% interval", "variance, % of that with all"]
    rows = [
        [
            _text(one.arm),
            _text("all" if len(one.varied) == len(SOURCES) else ", ".join(one.varied)),
            _number(one.n, "d"),
            _number(100 * one.deviation, ".2f"),
            Cell(f"{100 * one.low:.2f} to {100 * one.high:.2f}", one.low),
            _ratio(one),
        ]
        for one in comparison.spreads
    ]
    return Grid("Deviation of test accuracy over seeds, by what follows the seed", columns, rows)


def grids(comparison: Comparison) -> list[Grid]:
    """Return all tables that have rows."""
    made = (results(comparison), against_baseline(comparison), spread_by_source(comparison))
    return [grid for grid in made if grid.rows]


def terminal(grid: Grid, width: int) -> Table:
    """Format a grid for a terminal; one of less than 160 columns gets what matters most."""
    shown = [i for i, column in enumerate(grid.columns) if width >= _WIDE or column not in _WIDE_ONLY]
    table = Table(title=Text(grid.title), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in (grid.columns[i] for i in shown):
        if column in WORDS:
            table.add_column(column, overflow="fold", min_width=12)
        else:
            table.add_column(column, justify="right", min_width=max(map(len, column.split())))
    for row in grid.rows:
        table.add_row(*(Text(row[i].text) for i in shown))
    return table


def markdown(comparison: Comparison, captions: Mapping[str, str] | None = None) -> str:
    """Format the whole comparison as Markdown; captions are of the pictures beside it, by the names of their files."""
    parts = ["# Comparison", _plain(finding(comparison))]
    for grid in grids(comparison):
        lines = [grid.columns, ["---" if c in WORDS else "---:" for c in grid.columns]]
        lines += [[_plain(cell.text) for cell in row] for row in grid.rows]
        parts += [f"## {_plain(grid.title)}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    parts.append("\n".join(f"- {_plain(line)}" for line in explanations(comparison)))
    for name, caption in (captions or {}).items():
        parts += [f"![{pathlib.Path(name).stem}]({name})", _plain(caption)]
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Escape what Markdown would not show as it is: its own marks, and HTML, which it lets through."""
    text = re.sub(r"[\\`*\[\]|]", r"\\\g<0>", text)
    text = re.sub(r"&(?=#|\w+;)", "&amp;", text)
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)


def comma_separated(comparison: Comparison) -> str:
    """Format the comparison as CSV: unrounded, a row per arm, accuracies as fractions."""
    rows = []
    for arm in comparison.arms:
        row: dict[str, Any] = {**arm.by, "n": len(arm.runs), "seeds": " ".join(str(run.seed) for run in arm.runs)}
        for metric in METRICS:
            row |= _csv_estimate(metric, arm)
        versus = comparison.versus.get(arm.name)
        if versus:
            row |= {"baseline": comparison.baseline.name, "test": versus.difference.test}
            row |= {"difference": versus.difference.mean, "difference_half_width": versus.difference.half_width}
            row |= {"p": versus.difference.p_value, "p_holm": versus.p_holm}
            row |= {"mcnemar_p": versus.mcnemar, "mcnemar_p_holm": versus.mcnemar_holm}
            row |= {"half_width_with_images": versus.with_images.half_width}
            row |= {f"{name}_ahead": value for name, value in dataclasses.asdict(versus.superiority).items()}
            if versus.equivalence:
                row |= {
                    "margin": comparison.margin,
                    "low_90": versus.equivalence.low,
                    "high_90": versus.equivalence.high,
                }
                row |= {"p_equivalence": versus.equivalence.p_value, "p_equivalence_holm": versus.equivalence_holm}
                row |= {"verdict": versus.verdict}
            row |= {"detectable": versus.detectable, "notes": "; ".join(_notes(versus))}
        rows.append({name: "" if isinstance(v, float) and math.isnan(v) else v for name, v in row.items()})
    buffer = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _csv_estimate(metric: str, arm: Arm) -> dict[str, float]:
    estimate = arm.estimate(metric)
    if estimate is None:
        return {}
    values = {"": estimate.mean, "_deviation": estimate.deviation, "_half_width": estimate.half_width}
    return {f"{metric}{suffix}": value for suffix, value in values.items()}


def _notes(versus: BaselineComparison) -> list[str]:
    return [*filter(None, [versus.difference.why_no_test]), *versus.notes]


def _estimated(estimate: Estimate | None, metric: str) -> Cell:
    if estimate is None:
        return Cell("–", math.nan)
    if metric in ACCURACIES:
        return Cell(_percent(estimate), estimate.mean)
    if metric == "test/loss":
        return Cell(_plus_minus(estimate.mean, estimate.half_width, ".3f"), estimate.mean)
    return _number(
        estimate.mean, {"mmac": ".1f" if estimate.mean >= 10 else ".3g", "activation_mib": ".3g"}.get(metric, ",.0f")
    )


def _percent(estimate: Estimate) -> str:
    """Return an accuracy with its interval; one that is cut at 0 or 100% is not symmetric, and has its ends."""
    mean, half_width = 100 * estimate.mean, 100 * estimate.half_width
    if mean - half_width < 0 or mean + half_width > 100:
        return f"{mean:.2f} ({100 * estimate.low:.2f} to {100 * estimate.high:.2f})"
    return _plus_minus(mean, half_width, ".2f")


def _plus_minus(mean: float, half_width: float, form: str) -> str:
    if math.isnan(half_width) or half_width == 0:
        return format(mean, form)
    return f"{mean:{form}} ± {half_width:{form.lstrip('+')}}"


def _chance(superiority: Superiority) -> Cell:
    if math.isnan(superiority.probability):
        return Cell("–", math.nan)
    middle, low, high = (_bounded_percent(value) for value in dataclasses.astuple(superiority))
    shown = middle if low == high else f"{middle} ({low} to {high})"
    return Cell(shown, superiority.probability)


def _bounded_percent(probability: float) -> str:
    """Return whole percents, of which 0 and 100 would claim more than a few seeds can say."""
    percent = 100 * probability
    return "< 1" if percent < 1 else "> 99" if percent > 99 else f"{percent:.0f}"


def _ratio(spread: Spread) -> Cell:
    if math.isnan(spread.ratio):
        return Cell("–", math.nan)
    middle, low, high = (100 * value for value in (spread.ratio, spread.ratio_low, spread.ratio_high))
    return Cell(f"{middle:.0f} ({low:.0f} to {high:.0f})", spread.ratio)


def _equivalence(versus: BaselineComparison) -> list[Cell]:
    found = versus.equivalence
    if math.isnan(found.p_value):
        return [Cell("–", math.nan)] * 2
    return [Cell(f"{100 * found.low:+.2f} to {100 * found.high:+.2f}", found.low), _p_value(versus.equivalence_holm)]


def _p_value(p: float) -> Cell:
    return Cell("–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}", p)


def _number(value: float, form: str) -> Cell:
    return Cell("–" if math.isnan(value) else format(value, form), value)


def _text(text: str) -> Cell:
    return Cell(text, text)
