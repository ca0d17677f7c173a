"""A comparison as pictures: curves with bands, accuracy against cost, per-class differences."""

import math
from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter, StrMethodFormatter  # noqa: E402

from eanet import metrics, statistics  # noqa: E402
from eanet.comparison import Comparison, Group  # noqa: E402
from eanet.finished_run import METRICS  # noqa: E402

# What accuracy is drawn against: a field or a cost, with its title.
_AXES = {"model.num_heads": "heads", "model.memory_size": "memory slots"} | {
    name: METRICS[name] for name in ("parameters", "mmac")
}
_BANDS = 6  # groups; more make a fog
_CLASSES = 12  # that gain and that lose most
_MARKERS = "osD^vP*X"


def draw_all(comparison: Comparison) -> dict[str, Figure]:
    """Draw every picture that the runs give something for; keys are file names without ending."""
    pictures: dict[str, Callable[[Comparison], Figure | None]] = {
        "curves": curves,
        "accuracy": accuracy_against,
        "classes": class_differences,
    }
    drawn = {name: draw(comparison) for name, draw in pictures.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def curves(comparison: Comparison) -> Figure:
    """Draw loss and accuracy over the epochs, training dashed: means over seeds, with 95% bands for few groups."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for color, group in _colored(comparison):
        for axis, metric in zip(axes, ("loss", "accuracy"), strict=True):
            for split, line in (("val", "-"), ("train", "--")):
                epochs, means, widths = _over_epochs(group, f"{split}/{metric}")
                label = group.name if split == "val" else None
                marker = "o" if len(epochs) < 10 else None
                axis.plot(epochs, means, line, color=color, label=label, marker=marker, markersize=3)
                banded = split == "val" and len(comparison.groups) <= _BANDS
                if banded and not np.isnan(widths).all():
                    axis.fill_between(epochs, means - widths, means + widths, color=color, alpha=0.15, linewidth=0)
    classes = len(_class_names(comparison))
    axes[0].axhline(math.log(classes), color="gray", linewidth=1, linestyle=":", label=f"ln({classes}): no answer")
    axes[0].set(title="Loss (nats)", ylabel="loss")
    axes[1].set(title="Accuracy", ylabel="accuracy")
    axes[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    low, high = _range(comparison)
    axes[1].set_ylim(low, high)  # a 95% band of two seeds is wider than what it is about
    for axis in axes:
        axis.set_xlabel("epoch (solid: validation, dashed: training)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    _legend(figure, axes[0], columns=3)
    return figure


def _legend(figure: Figure, axis: Any, columns: int) -> None:
    """Put an axis's legend below the figure; a group's name is no formula, whatever is in it."""
    handles, labels = axis.get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small")
    for text in legend.get_texts():
        text.set_parse_math(False)


def _range(comparison: Comparison) -> tuple[float, float]:
    """Give limits that hold every run's accuracy with some air."""
    rows = [row for group in comparison.groups for run in group.runs for row in run.rows]
    values = [row[name] for row in rows for name in ("val/accuracy", "train/accuracy")]
    air = 0.1 * (max(values) - min(values)) + 1e-3
    return max(0.0, min(values) - air), min(1.0, max(values) + air)


def _over_epochs(group: Group, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give epochs, means and half-widths over the epochs that all runs of a group have."""
    by_epoch: dict[float, list[float]] = {}
    for run in group.runs:
        for row in run.rows:
            by_epoch.setdefault(row["epoch"], []).append(row[metric])
    epochs = sorted(epoch for epoch, values in by_epoch.items() if len(values) == len(group.runs))
    estimates = [statistics.estimate(by_epoch[epoch]) for epoch in epochs]
    return (
        np.array(epochs),
        np.array([estimate.mean for estimate in estimates]),
        np.array([estimate.half_width for estimate in estimates]),
    )


def accuracy_against(comparison: Comparison) -> Figure | None:
    """Draw test accuracy against heads, memory and costs, where the groups differ in them."""
    axes_of = {name: title for name, title in _AXES.items() if len(_positions(comparison, name)) > 1}
    if not axes_of:
        return None
    figure, axes = plt.subplots(
        1, len(axes_of), figsize=(max(5.5, 3.7 * len(axes_of)), 4.4), sharey=True, layout="constrained", squeeze=False
    )
    arms = list(dict.fromkeys(_arm(group) for group in comparison.groups))
    for axis, (name, title) in zip(axes[0], axes_of.items(), strict=True):
        for i, arm in enumerate(arms):
            groups = [group for group in comparison.groups if _arm(group) == arm]
            points = [(x, group) for group in groups if (x := _position(group, name)) is not None]
            if points:
                _draw_arm(axis, points, plt.cm.tab10.colors[i % 10], _MARKERS[i % len(_MARKERS)], arm)
        axis.set(xlabel=title, title=f"against {title}")
        axis.set_xscale("log", base=2 if name.startswith("model.") else 10)
        ticks = sorted(_positions(comparison, name))
        if name.startswith("model."):
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
        else:
            plain = EngFormatter(places=0, sep="") if name == "parameters" else StrMethodFormatter("{x:g}")
            axis.xaxis.set_major_formatter(plain)
            axis.xaxis.set_minor_formatter(plain)
            axis.tick_params(axis="x", which="both", labelrotation=45)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("test accuracy")
    axes[0][0].yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend(figure, axes[0][-1], columns=4)
    return figure


def _draw_arm(axis: Any, points: list[tuple[float, Group]], color: Any, marker: str, label: str) -> None:
    """Draw the mean of each group over its runs, which show as dots."""
    points = sorted(points, key=lambda point: point[0])
    xs = [x for x, _ in points]
    values = [list(group.values("test/accuracy").values()) for _, group in points]
    line = "-" if len(xs) > 1 else ""
    axis.plot(xs, [np.mean(some) for some in values], line, marker=marker, color=color, label=label)
    for x, some in zip(xs, values, strict=True):
        axis.plot([x] * len(some), some, ".", color=color, alpha=0.5, markersize=5)


def _arm(group: Group) -> str:
    """Name what is drawn as one line: the group without what the axes show."""
    fields = {field: value for field, value in group.by.items() if field not in _AXES and value is not None}
    return ", ".join(f"{field.rpartition('.')[2]}={value}" for field, value in fields.items()) or "runs"


def _position(group: Group, name: str) -> float | None:
    if not name.startswith("model."):
        estimate = group.estimate(name)
        return estimate.mean if estimate else None
    values = {_slots(run.fields) if name == "model.memory_size" else run.fields[name] for run in group.runs}
    return values.pop() if len(values) == 1 else None  # --by may put several into one group


def _slots(fields: dict[str, Any]) -> int | None:
    size = fields["model.memory_size"]
    return fields["model.dim"] // fields["model.dim_coefficient"] if size == 0 else size


def _positions(comparison: Comparison, name: str) -> set[float]:
    return {x for group in comparison.groups if (x := _position(group, name)) is not None}


def class_differences(comparison: Comparison) -> Figure | None:
    """Draw, for each group, the classes whose test accuracy differs most from the baseline's."""
    others = [group for group in comparison.groups if group is not comparison.baseline]
    if not others:
        return None
    columns = min(3, len(others))
    rows = math.ceil(len(others) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(5.5, 3.7 * columns), 4.6 * rows), layout="constrained", squeeze=False, sharex=True
    )
    figure.suptitle(f"Test accuracy by class, difference to {comparison.baseline.name} in points", parse_math=False)
    base = _by_class(comparison.baseline)
    names = _class_names(comparison)
    for axis, group in zip(axes.flat, others, strict=False):
        differences = 100 * (_by_class(group) - base)
        order = [i for i in np.argsort(differences) if not np.isnan(differences[i])]
        shown = order if len(order) <= 2 * _CLASSES else [*order[:_CLASSES], *order[-_CLASSES:]]
        colors = ["tab:red" if differences[i] < 0 else "tab:green" for i in shown]
        axis.barh(range(len(shown)), differences[shown], color=colors)
        axis.set_yticks(range(len(shown)), [names[i] for i in shown], fontsize=6, parse_math=False)
        axis.axvline(0, color="gray", linewidth=1)
        axis.set_title(group.name, fontsize="small", parse_math=False)
        axis.grid(axis="x", alpha=0.3)
    for axis in axes.flat[len(others) :]:
        axis.axis("off")
    return figure


def _by_class(group: Group) -> np.ndarray:
    """Give the accuracy of each class, averaged over a group's runs; NaN where it has no test image."""
    runs = group.runs
    return np.mean([metrics.by_class(run.correct.astype(float), run.labels, len(run.class_names)) for run in runs], 0)


def _class_names(comparison: Comparison) -> list[str]:
    return list(comparison.groups[0].runs[0].class_names)


def _colored(comparison: Comparison) -> list[tuple[Any, Group]]:
    colors = plt.cm.tab20.colors if len(comparison.groups) > 10 else plt.cm.tab10.colors
    return [(colors[i % len(colors)], group) for i, group in enumerate(comparison.groups)]
