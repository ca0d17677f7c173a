"""The picture of a run: loss and accuracy over the epochs."""

import math
import os
import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: E402


def draw(rows: list[dict[str, Any]], path: pathlib.Path, title: str, num_classes: int) -> None:
    """Draw training and validation curves of the rows of metrics.jsonl that end an epoch, as a PNG.

    The dashed line is the loss of a network that says nothing, ln(classes): validation above it means
    that the network is confidently wrong.
    """
    rows = [row for row in rows if "val/loss" in row]
    epochs = [row["epoch"] for row in rows]
    # A single epoch would draw no line.
    style = {"marker": "o", "markersize": 3} if len(rows) < 20 else {}
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    figure.suptitle(title)
    for split, name, color in (("train", "training", "tab:blue"), ("val", "validation", "tab:orange")):
        axes[0].plot(epochs, [row[f"{split}/loss"] for row in rows], color=color, label=name, **style)
        for metric, line in (("accuracy", "-"), ("top5_accuracy", ":")):
            label = f"{name}, {'top 1' if metric == 'accuracy' else 'top 5'}"
            values = [row[f"{split}/{metric}"] for row in rows]
            axes[1].plot(epochs, values, color=color, linestyle=line, label=label, **style)
    axes[0].axhline(math.log(num_classes), color="gray", linewidth=1, linestyle="--", label=f"ln({num_classes})")
    axes[0].set(ylabel="loss (nats, with label smoothing)", title="Loss")
    axes[1].set(ylabel="accuracy", title="Accuracy", ylim=(0, 1))
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
