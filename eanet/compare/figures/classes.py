"""A comparison class by class, as pictures: accuracy gained and lost, and confusion matrices."""

import math
import textwrap
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.colors import PowerNorm  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

from eanet.compare.arm import Arm  # noqa: E402
from eanet.compare.comparison import Comparison  # noqa: E402
from eanet.training import metrics  # noqa: E402

_CLASSES = 12  # that gain and that lose most
CONFUSED = 20  # classes or superclasses; more have no room for their names
WRITTEN = 5  # percent of a class; smaller shares are colours alone
_FONT = 9  # of names, in points


def differences(comparison: Comparison) -> tuple[Figure, str] | None:
    """Draw, for each arm, the classes whose test accuracy differs most from the baseline's; give a caption too."""
    others = [arm for arm in comparison.arms if arm is not comparison.baseline]
    if not others:
        return None
    by_class = {arm.name: 100 * (_by_class(arm) - _by_class(comparison.baseline)) for arm in others}
    known = int(np.sum(~np.isnan(by_class[others[0].name])))  # the test images are the same in all arms
    columns = min(3, len(others))
    rows = math.ceil(len(others) / columns)
    height = 1.2 + 0.18 * min(known, 2 * _CLASSES)
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(7, 3.7 * columns), height * rows), layout="constrained", squeeze=False, sharex=True
    )
    names = comparison.arms[0].runs[0].class_names
    for axis, arm in zip(axes.flat, others, strict=False):
        values = by_class[arm.name]
        order = np.argsort(values)[:known]  # NaN comes last
        shown = order if known <= 2 * _CLASSES else [*order[:_CLASSES], *order[-_CLASSES:]]
        colors = ["tab:red" if values[i] < 0 else "tab:green" for i in shown]
        axis.barh(range(len(shown)), values[shown], color=colors)
        axis.set_yticks(range(len(shown)), [names[i] for i in shown], fontsize=_FONT, parse_math=False)
        axis.set_ylim(-0.7, len(shown) - 0.3)
        axis.axvline(0, color="gray", linewidth=1)
        axis.set_title(_wrapped(arm.name, 3), fontsize="medium", parse_math=False)
        axis.set_xlabel("difference, points")
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.grid(axis="x", alpha=0.3)
    for axis in axes.flat[len(others) :]:
        axis.axis("off")
    which = "class by class"
    if known > 2 * _CLASSES:
        which = f"of the {_CLASSES} classes at either end"
    return figure, (
        f"Difference in test accuracy to {comparison.baseline.name}, {which}{_over_seeds(comparison.arms)}; of "
        "extremes a good part is chance."
    )


def _wrapped(name: str, inches: float) -> str:
    """Break a name that is wider than its panel. Not by Matplotlib, which reads formulas in what it wraps."""
    return textwrap.fill(name, max(20, int(12 * inches)))


def _over_seeds(arms: Sequence[Arm]) -> str:
    return ", means over the seeds" if any(len(arm.runs) > 1 for arm in arms) else ""


def _by_class(arm: Arm) -> np.ndarray:
    """Return the accuracy of each class, averaged over an arm's runs; NaN if it has no test image."""
    runs = arm.runs
    return np.mean([metrics.by_class(run.correct.astype(float), run.labels, len(run.class_names)) for run in runs], 0)


def confusion(comparison: Comparison) -> tuple[Figure, str] | None:
    """Draw the confusion matrices of the baseline and the best other arm, and return a caption as well.

    The matrices are of superclasses if the records have them, else of classes. Returns None if there are too many.
    """
    known = next((run for arm in comparison.arms for run in arm.runs if run.superclass_names), None)
    first = comparison.arms[0].runs[0]
    names, of = (known.superclass_names, known.superclass_of) if known else (first.class_names, None)
    if len(names) > CONFUSED:
        return None
    others = [arm for arm in comparison.arms if arm is not comparison.baseline]
    best = max(others, key=lambda arm: arm.estimate("test/accuracy").mean, default=None)
    arms = [comparison.baseline, best] if best else [comparison.baseline]
    figure = draw_confusion({arm.name: _shares(arm, len(names), of) for arm in arms}, names, "test images")
    what = "superclass" if known else "class"
    whose = comparison.baseline.name
    if best:
        whose = f"the baseline, {whose}, and {'the best other arm, ' * (len(others) > 1)}{best.name}"
    return figure, (
        f"What is taken for what on the test images by {whose}: a row is a true {what}, a column a predicted one"
        f"{_over_seeds(arms)}; shares from {WRITTEN}% on are written."
    )


def draw_confusion(shares: dict[str, np.ndarray], names: Sequence[str], images: str) -> Figure:
    """Draw confusion matrices, by title, side by side; images names the data, e.g. test images."""
    side = 0.9 + 0.24 * len(names)
    room = 0.075 * max(map(len, names))  # for a name beside the panel, and for one below it
    figure, axes = plt.subplots(
        1, len(shares), figsize=(side * len(shares) + room + 0.8, side + room), layout="compressed", squeeze=False
    )
    norm = PowerNorm(0.5, 0, np.nanmax(list(shares.values())))  # on a linear scale errors would be too dark to see
    for axis, (title, share) in zip(axes[0], shares.items(), strict=True):
        mesh = axis.pcolormesh(share, cmap="viridis", norm=norm, rasterized=True)  # as paths, most of a report's bytes
        for true, taken in np.argwhere(np.nan_to_num(share) >= WRITTEN):
            value = share[true, taken]
            color = "black" if norm(value) > 0.6 else "white"
            axis.text(taken + 0.5, true + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=7, color=color)
        places = np.arange(len(names)) + 0.5
        axis.set_xticks(places, names, rotation=90, fontsize=_FONT, parse_math=False)
        axis.set_yticks(places, names if axis is axes[0][0] else [""] * len(names), fontsize=_FONT, parse_math=False)
        axis.invert_yaxis()
        axis.set_aspect("equal")
        axis.set_title(_wrapped(title, side), fontsize="medium", parse_math=False)
        axis.set_xlabel("predicted")
    axes[0][0].set_ylabel("true")
    figure.colorbar(mesh, ax=axes[0], label=f"% of the {images} of a row", shrink=0.6)
    return figure


def _shares(arm: Arm, count: int, of: np.ndarray | None) -> np.ndarray:
    """Return the percentage of each true class that is taken for each, over an arm's runs."""
    pairs = [(run.labels, run.predicted) for run in arm.runs]
    return confusion_matrix(pairs if of is None else [(of[true], of[taken]) for true, taken in pairs], count)


def confusion_matrix(pairs: Sequence[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """Return the confusion matrix, in percent of each true class (a row); NaN if the class has no image.

    pairs are true and predicted classes of several networks.
    """
    table = np.zeros((count, count))
    for true, taken in pairs:
        table += np.bincount(true * count + taken, minlength=count * count).reshape(count, count)
    total = table.sum(1, keepdims=True)
    return np.divide(100 * table, total, out=np.full(table.shape, np.nan), where=total > 0)
