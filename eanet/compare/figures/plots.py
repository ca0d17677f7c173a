"""A comparison as pictures: curves with bands, accuracy against heads, memory and costs; and the list of all."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import PercentFormatter  # noqa: E402

from eanet.compare.arm import Arm  # noqa: E402
from eanet.compare.comparison import Comparison  # noqa: E402
from eanet.compare.figures import classes as comparison_classes  # noqa: E402
from eanet.compare.figures.forest import forest  # noqa: E402
from eanet.compare.finished_run import METRICS  # noqa: E402
from eanet.run.curves import complete_axes, draw_curve  # noqa: E402
from eanet.training import metrics  # noqa: E402

# What accuracy is drawn against: a field or a cost, with its title.
_AXES = {"model.num_heads": "heads", "model.memory_size": "memory slots"} | {
    name: METRICS[name] for name in ("parameters", "mmac")
}
_BANDS = 6  # arms; more make a fog
_APART = 0.17  # of an axis, between two of its labels
_MARKERS = "osD^vP*X"


def draw_all(comparison: Comparison) -> dict[str, tuple[Figure, str]]:
    """Draw every picture that the runs give something for, each with a caption; keys are file names without ending."""
    pictures: dict[str, Callable[[Comparison], tuple[Figure, str] | None]] = {
        "differences": forest,
        "curves": curves,
        "accuracy": accuracy_against,
        "classes": comparison_classes.differences,
        "confusion": comparison_classes.confusion,
    }
    drawn = {name: draw(comparison) for name, draw in pictures.items()}
    return {name: picture for name, picture in drawn.items() if picture is not None}


def curves(comparison: Comparison) -> tuple[Figure, str]:
    """Draw loss and accuracy over the epochs, training dashed: means over seeds, with bands for few arms."""
    banded = [len(arm.runs) for arm in comparison.arms if len(comparison.arms) <= _BANDS]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for color, arm in _colored(comparison):
        for axis, metric in zip(axes, ("loss", "accuracy"), strict=True):
            validation, training = (_over_epochs(arm, f"{split}/{metric}") for split in ("val", "train"))
            draw_curve(axis, metric, validation, color, band=bool(banded), label=arm.name)
            draw_curve(axis, metric, training, color, band=False, linestyle="--")
    classes = len(comparison.arms[0].runs[0].class_names)
    complete_axes(*axes, classes, "epoch (solid: validation, dashed: training)")
    axes[0].set(title="Loss (nats)", ylabel="loss")
    axes[1].set(title="Accuracy", ylabel="accuracy")
    low, high = _range(comparison)
    axes[1].set_ylim(low, high)  # a band of three seeds can be wider than what it is about
    legend_below(figure, axes[0], columns=3)
    said = metrics.spread_in_words(banded)
    caption = "Loss and accuracy over the epochs, solid on validation and dashed on training"
    caption += ", means over the seeds" if any(len(arm.runs) > 1 for arm in comparison.arms) else ""
    return figure, f"{caption}; bands, of validation: {said}." if said else f"{caption}."


def legend_below(figure: Figure, axis: Any, columns: int) -> None:
    """Put an axis's legend below the figure; an arm's name is not a formula, whatever is in it."""
    handles, labels = axis.get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small")
    for text in legend.get_texts():
        text.set_parse_math(False)


def _range(comparison: Comparison) -> tuple[float, float]:
    """Return limits that hold every run's accuracy with some air."""
    rows = [row for arm in comparison.arms for run in arm.runs for row in run.rows]
    values = [row[name] for row in rows for name in ("val/accuracy", "train/accuracy")]
    air = 0.1 * (max(values) - min(values)) + 1e-3
    return max(0.0, min(values) - air), min(1.0, max(values) + air)


def _over_epochs(arm: Arm, metric: str) -> dict[float, list[float]]:
    """Return the runs' values by epoch, of the epochs that all runs of an arm have."""
    by_epoch: dict[float, list[float]] = {}
    for run in arm.runs:
        for row in run.rows:
            by_epoch.setdefault(row["epoch"], []).append(row[metric])
    return {epoch: values for epoch, values in sorted(by_epoch.items()) if len(values) == len(arm.runs)}


def accuracy_against(comparison: Comparison) -> tuple[Figure, str] | None:
    """Draw test accuracy against heads, memory and costs if the arms differ in them, and return its caption as well."""
    axes_of = {name: title for name, title in _AXES.items() if len(_positions(comparison, name)) > 1}
    if not axes_of:
        return None
    figure, axes = plt.subplots(
        1, len(axes_of), figsize=(max(5.5, 3.7 * len(axes_of)), 4.4), sharey=True, layout="constrained", squeeze=False
    )
    lines = list(dict.fromkeys(_line_of(arm) for arm in comparison.arms))
    for axis, (name, title) in zip(axes[0], axes_of.items(), strict=True):
        for i, line in enumerate(lines):
            arms = [arm for arm in comparison.arms if _line_of(arm) == line]
            points = [(x, arm) for arm in arms if (x := _position(arm, name)) is not None]
            if points:
                _draw_line(axis, points, plt.cm.tab10.colors[i % 10], _MARKERS[i % len(_MARKERS)], line)
        axis.set(xlabel=title, title=f"against {title}")
        axis.set_xscale("log", base=2 if name.startswith("model.") else 10)
        ticks = _ticks(_positions(comparison, name))
        axis.set_xticks(ticks, [_short(tick) for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("test accuracy")
    axes[0][0].yaxis.set_major_formatter(PercentFormatter(1.0))
    legend_below(figure, axes[0][-1], columns=4)
    *first, last = axes_of.values()
    caption = f"Test accuracy against {', '.join(first)}{' and ' * bool(first)}{last}"
    counts = [len(arm.runs) for arm in comparison.arms]
    said = metrics.spread_in_words(counts)
    return figure, f"{caption}: means over the seeds; bars: {said}; small dots: single runs." if said else f"{caption}."


def _ticks(positions: Iterable[float]) -> list[float]:
    """Choose from the arms' own places on a logarithmic axis those whose labels do not run into one another."""
    smallest, *rest = sorted(positions)
    largest = max(rest)
    gap = _APART * math.log(largest / smallest)
    chosen = [smallest]
    for place in rest[:-1]:
        if min(math.log(place / chosen[-1]), math.log(largest / place)) >= gap:
            chosen.append(place)
    return [*chosen, largest]


def _short(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def _draw_line(axis: Any, points: list[tuple[float, Arm]], color: Any, marker: str, label: str) -> None:
    """Draw the mean of each arm over its runs, which show as dots, and how far these lie apart."""
    points = sorted(points, key=lambda point: point[0])
    xs = [x for x, _ in points]
    values = [list(arm.values("test/accuracy").values()) for _, arm in points]
    line = "-" if len(set(xs)) == len(xs) > 1 else "none"  # arms that cost the same are no curve
    axis.plot(xs, [np.mean(some) for some in values], linestyle=line, marker=marker, color=color, label=label)
    for x, some in zip(xs, values, strict=True):
        if len(some) > 1:
            axis.plot([x] * len(some), some, ".", color=color, alpha=0.5, markersize=5)
            low, high = metrics.spread("accuracy", some)
            axis.plot([x, x], [low, high], "-_", color=color, linewidth=1, markersize=9)


def _line_of(arm: Arm) -> str:
    """Name what is drawn as one line: the arm without what the axes show."""
    fields = {field: value for field, value in arm.by.items() if field not in _AXES and value is not None}
    return ", ".join(f"{field.rpartition('.')[2]}={value}" for field, value in fields.items()) or "runs"


def _position(arm: Arm, name: str) -> float | None:
    if not name.startswith("model."):
        estimate = arm.estimate(name)
        return estimate.mean if estimate else None
    values = {_slots(run.fields) if name == "model.memory_size" else run.fields[name] for run in arm.runs}
    return values.pop() if len(values) == 1 else None  # --by may put several into one arm


def _slots(fields: dict[str, Any]) -> int | None:
    size = fields["model.memory_size"]
    return fields["model.dim"] // fields["model.dim_coefficient"] if size == 0 else size


def _positions(comparison: Comparison, name: str) -> set[float]:
    return {x for arm in comparison.arms if (x := _position(arm, name)) is not None}


def _colored(comparison: Comparison) -> list[tuple[Any, Arm]]:
    colors = plt.cm.tab20.colors if len(comparison.arms) > 10 else plt.cm.tab10.colors
    return [(colors[i % len(colors)], arm) for i, arm in enumerate(comparison.arms)]
