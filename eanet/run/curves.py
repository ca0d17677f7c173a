"""The picture of a run: loss and accuracy over the epochs."""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: E402

from eanet.training import members as members_lib  # noqa: E402
from eanet.training import metrics  # noqa: E402
from eanet.training.members import Member  # noqa: E402


def draw(
    rows: list[dict[str, Any]], path: pathlib.Path, title: str, num_classes: int, members: Sequence[Member]
) -> None:
    """Draw training and validation curves of the rows of metrics.jsonl that end an epoch, as a PNG.

    Several seeds are drawn as their mean with its 95% interval, two of them with their range, and a grid of
    hyperparameters by its validation alone.
    The dashed line is the loss of a network that says nothing, ln(classes): validation above it means that the
    network is confidently wrong.
    """
    points = members_lib.points(members)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    figure.suptitle(title, parse_math=False)  # a directory may be called $x^2$
    counts = set()
    for i, point in enumerate(points):
        seeds = [member for member in members if member.point == point] if len(members) > 1 else []
        for split, name in (("train", "training"), ("val", "validation")):
            if len(points) > 1 and split == "train":
                continue
            color = f"C{i}" if len(points) > 1 else {"train": "tab:blue", "val": "tab:orange"}[split]
            label, prefix = point or name, f"{point}/{split}" if point else split
            _line(axes[0], rows, f"{prefix}/loss", color=color, label=label)
            _line(axes[1], rows, f"{prefix}/accuracy", color=color, label=f"{label}, top 1")
            counts |= _band(axes[0], rows, f"{split}/loss", seeds, color)
            counts |= _band(axes[1], rows, f"{split}/accuracy", seeds, color)
            if len(points) == 1:
                _line(axes[1], rows, f"{prefix}/top5_accuracy", color=color, linestyle=":", label=f"{label}, top 5")
                _band(axes[1], rows, f"{split}/top5_accuracy", seeds, color)
    said = metrics.spread_in_words(counts)
    axes[0].axhline(math.log(num_classes), color="gray", linewidth=1, linestyle="--", label=f"ln({num_classes})")
    axes[0].set(ylabel="loss (nats, with label smoothing)", title="Loss" if len(points) == 1 else "Validation loss")
    axes[1].set(ylabel="accuracy", title="Accuracy" if len(points) == 1 else "Validation accuracy", ylim=(0, 1))
    axes[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    for axis in axes:
        axis.set_xlabel(f"epoch (bands: {said})" if said else "epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend()
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, dpi=120, format="png")
    plt.close(figure)
    os.replace(partial, path)


def _line(axis: Any, rows: list[dict[str, Any]], metric: str, **style: Any) -> None:
    """Draw a metric over the epochs."""
    rows = [row for row in rows if metric in row]
    epochs = [row["epoch"] for row in rows]
    # A single epoch would draw no line.
    dots = {"marker": "o", "markersize": 3} if len(rows) < 20 else {}
    axis.plot(epochs, [row[metric] for row in rows], **dots, **style)


def _band(axis: Any, rows: list[dict[str, Any]], metric: str, seeds: Sequence[Member], color: str) -> set[int]:
    """Draw how far several seeds lie apart in a metric, and return the numbers of seeds at its epochs."""
    names = [f"{member.name}/{metric}" for member in seeds]
    values = {row["epoch"]: [row[name] for name in names if name in row] for row in rows}  # some may diverge
    values = {epoch: some for epoch, some in values.items() if len(some) > 1}
    if values:
        low, high = zip(*(metrics.spread(metric, some) for some in values.values()), strict=True)
        axis.fill_between(list(values), low, high, color=color, alpha=0.15, linewidth=0)
    return set(map(len, values.values()))
