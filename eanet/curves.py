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

from eanet import members as members_lib  # noqa: E402
from eanet.members import Member  # noqa: E402


def draw(
    rows: list[dict[str, Any]], path: pathlib.Path, title: str, num_classes: int, members: Sequence[Member]
) -> None:
    """Draw training and validation curves of the rows of metrics.jsonl that end an epoch, as a PNG.

    Several seeds are drawn as their mean with its 95% interval, a grid of hyperparameters by its validation alone.
    The dashed line is the loss of a network that says nothing, ln(classes): validation above it means that the
    network is confidently wrong.
    """
    points = members_lib.points(members)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    figure.suptitle(title, parse_math=False)  # a directory may be called $x^2$
    for i, point in enumerate(points):
        for split, name in (("train", "training"), ("val", "validation")):
            if len(points) > 1 and split == "train":
                continue
            color = f"C{i}" if len(points) > 1 else {"train": "tab:blue", "val": "tab:orange"}[split]
            label, prefix = point or name, f"{point}/{split}" if point else split
            _line(axes[0], rows, f"{prefix}/loss", color=color, label=label)
            _line(axes[1], rows, f"{prefix}/accuracy", color=color, label=f"{label}, top 1")
            if len(points) == 1:
                _line(axes[1], rows, f"{prefix}/top5_accuracy", color=color, linestyle=":", label=f"{label}, top 5")
    axes[0].axhline(math.log(num_classes), color="gray", linewidth=1, linestyle="--", label=f"ln({num_classes})")
    axes[0].set(ylabel="loss (nats, with label smoothing)", title="Loss" if len(points) == 1 else "Validation loss")
    axes[1].set(ylabel="accuracy", title="Accuracy" if len(points) == 1 else "Validation accuracy", ylim=(0, 1))
    axes[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend()
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, dpi=120, format="png")
    plt.close(figure)
    os.replace(partial, path)


def _line(axis: Any, rows: list[dict[str, Any]], metric: str, **style: Any) -> None:
    """Draw a metric over the epochs, with its interval where the rows have one."""
    rows = [row for row in rows if metric in row]
    epochs = [row["epoch"] for row in rows]
    # A single epoch would draw no line.
    dots = {"marker": "o", "markersize": 3} if len(rows) < 20 else {}
    axis.plot(epochs, [row[metric] for row in rows], **dots, **style)
    band = [row for row in rows if f"{metric}_low" in row]
    if band:
        low, high = ([row[f"{metric}_{end}"] for row in band] for end in ("low", "high"))
        axis.fill_between([row["epoch"] for row in band], low, high, color=style["color"], alpha=0.15, linewidth=0)
