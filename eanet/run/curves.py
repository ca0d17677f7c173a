"""Loss and accuracy over the epochs: the picture of a run, and what the comparison's picture shares with it."""

import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: E402

from eanet.training import members as members_lib  # noqa: E402
from eanet.training import metrics  # noqa: E402
from eanet.training.members import Member  # noqa: E402

_DOTTED = 20  # epochs; of fewer each has its dot, because a single one would draw no line


def draw(
    rows: list[dict[str, Any]], path: pathlib.Path, title: str, num_classes: int, members: Sequence[Member]
) -> None:
    """Draw training and validation curves of the rows of metrics.jsonl that end an epoch, as a PNG.

    Several seeds are drawn as their mean with its 95% interval, two of them with their range, and a grid of
    hyperparameters by its validation alone.
    """
    points = members_lib.points(members)
    is_grid = len(points) > 1
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    figure.suptitle(title, parse_math=False)  # a directory may be called $x^2$
    drawn = [(axes[0], "loss", "-", ""), (axes[1], "accuracy", "-", ", top 1")]
    drawn += [] if is_grid else [(axes[1], "top5_accuracy", ":", ", top 5")]
    counts = set()
    for i, point in enumerate(points):
        names = [member.name for member in members if member.point == point] if len(members) > 1 else [""]
        for j, (split, split_title) in enumerate((("train", "training"), ("val", "validation"))):
            if is_grid and split == "train":
                continue
            for axis, metric, style, suffix in drawn:
                values = _over_epochs(rows, [members_lib.join(name, f"{split}/{metric}") for name in names])
                label = f"{point or split_title}{suffix}"
                draw_curve(axis, metric, values, color=f"C{i if is_grid else j}", linestyle=style, label=label)
                counts |= set(map(len, values.values()))
    said = metrics.spread_in_words(counts)
    complete_axes(*axes, num_classes, f"epoch (bands: {said})" if said else "epoch")
    axes[0].set(ylabel="loss (nats, with label smoothing)", title="Validation loss" if is_grid else "Loss")
    axes[1].set(ylabel="accuracy", title="Validation accuracy" if is_grid else "Accuracy", ylim=(0, 1))
    for axis in axes:
        axis.legend()
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, dpi=120, format="png")
    plt.close(figure)
    os.replace(partial, path)


def draw_curve(
    axis: Any, metric: str, values: Mapping[float, Sequence[float]], color: Any, band: bool = True, **style: Any
) -> None:
    """Draw a metric over the epochs: the mean over the seeds, and as a band how far they lie apart.

    values has a number per seed at each epoch. An epoch with one number alone, e.g. because the other seeds have
    diverged, is left out of the band.
    """
    style |= {"color": color, "marker": "o" if len(values) < _DOTTED else None, "markersize": 3}
    axis.plot(list(values), [np.mean(some) for some in values.values()], **style)
    several = {epoch: some for epoch, some in values.items() if len(some) > 1}
    if band and several:
        low, high = zip(*(metrics.spread(metric, some) for some in several.values()), strict=True)
        axis.fill_between(list(several), low, high, color=color, alpha=0.15, linewidth=0)


def complete_axes(loss: Any, accuracy: Any, num_classes: int | None, xlabel: str) -> None:
    """Finish the axes once their curves are drawn: percent, whole epochs, and a line at ln(classes), if that is known.

    That is the loss of uniform guessing: validation loss above it means that the network is confidently wrong.
    """
    if num_classes is not None:
        label = f"ln({num_classes}): no answer"
        loss.axhline(math.log(num_classes), color="gray", linewidth=1, linestyle=":", label=label)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axis in (loss, accuracy):
        axis.set_xlabel(xlabel)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)


def _over_epochs(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[float, list[float]]:
    """Return by epoch the values that a row has under some names; a member that has diverged has none."""
    by_epoch = {row["epoch"]: [row[name] for name in names if name in row] for row in rows}
    return {epoch: values for epoch, values in by_epoch.items() if values}
