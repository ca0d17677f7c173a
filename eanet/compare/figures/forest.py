"""A comparison as one picture: every difference from the baseline with its intervals and the margin."""

import math

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from eanet import statistics  # noqa: E402
from eanet.compare.comparison import Comparison  # noqa: E402
from eanet.compare.verdict import points  # noqa: E402

_COLOR, _BOTH, _MARGIN = "C0", "#8A929C", "#009E73"
_ROW = 0.5  # inches
_BELOW = 0.22  # of a row: the second interval under the first


def forest(comparison: Comparison) -> tuple[Figure, str] | None:
    """Draw the differences in test accuracy in points, the largest on top, and return its caption as well.

    None if no difference has an interval.
    """
    versus = comparison.versus
    if all(math.isnan(one.difference.half_width) for one in versus.values()):
        return None
    names = sorted(versus, key=lambda name: versus[name].difference.mean)
    figure, axis = plt.subplots(figsize=(8.5, 1.5 + _ROW * len(names)), layout="constrained")
    if comparison.margin:
        margin = 100 * comparison.margin
        axis.axvspan(-margin, margin, color=_MARGIN, alpha=0.15, linewidth=0)
        for end in (-margin, margin):
            axis.axvline(end, color=_MARGIN, linewidth=1, linestyle="--")
    axis.axvline(0, color=_BOTH, linewidth=1)
    for row, name in enumerate(names):
        one = versus[name]
        mean = 100 * one.difference.mean
        _interval(axis, row - _BELOW, mean, 100 * one.with_images.half_width, color=_BOTH, linewidth=1.2)
        _interval(axis, row, mean, 100 * one.difference.half_width, color=_COLOR, linewidth=2.4)
        if one.equivalence and not math.isnan(one.equivalence.low):
            ends = [100 * one.equivalence.low, 100 * one.equivalence.high]
            axis.plot(ends, [row, row], color=_COLOR, linewidth=6, alpha=0.45, solid_capstyle="butt")
        axis.plot([mean], [row], "o", color=_COLOR, markersize=6)
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.set_xlabel(f"points of test accuracy ahead of {comparison.baseline.name}", parse_math=False)
    axis.grid(axis="x", alpha=0.3)
    return figure, _caption(comparison)


def _interval(axis: plt.Axes, row: float, middle: float, half_width: float, **style: object) -> None:
    if not math.isnan(half_width):
        axis.plot([middle - half_width, middle + half_width], [row, row], marker="|", markersize=8, **style)


def _caption(comparison: Comparison) -> str:
    level = f"{statistics.LEVEL:.0%}"
    parts = [
        f"Difference in test accuracy from {comparison.baseline.name}, dots: means over seeds",
        f"blue lines: {level} t intervals over seeds",
        f"grey, below: {level} intervals over seeds and test images",
    ]
    if comparison.margin:
        margin = f"the margin of {points(comparison.margin)}, shaded"
        parts.append(f"thick: 90% intervals, which show equivalence if they lie within {margin}")
    tested = sum(not math.isnan(one.p_holm) for one in comparison.versus.values())
    if tested > 1:
        parts.append(f"each interval is of one arm by itself, p-values and verdicts are corrected for {tested}")
    return "; ".join(parts) + "."
