"""The picture of all differences: what is drawn, and when."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from eanet.compare import comparison, finished_run
from eanet.compare.figures.forest import forest
from helpers.finished_runs import read_comparison, write_arm


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("arms")
    write_arm(root, "eanet", {0: 0.4, 1: 0.42, 2: 0.44})
    write_arm(root, "vit", {0: 0.41, 1: 0.44, 2: 0.445})
    write_arm(root, "none", {0: 0.3, 1: 0.33, 2: 0.34})
    write_arm(root, "vit", {0: 0.45}, model__num_heads=8)  # without an interval
    return finished_run.find_runs([root])


def _lines(axis, width):
    """Return the ends of the intervals of one width, from the bottom up."""
    return [tuple(line.get_xdata()) for line in axis.lines if line.get_linewidth() == width]


def _ends(mean, half_width):
    return 100 * (mean - half_width), 100 * (mean + half_width)


def test_every_arm_has_its_mean_and_its_intervals(runs):
    result = comparison.compare(*runs[:1], notes=runs[1], margin=0.02)
    figure, caption = forest(result)
    (axis,) = figure.axes
    names = sorted(result.versus, key=lambda name: result.versus[name].difference.mean)
    assert [label.get_text() for label in axis.get_yticklabels()] == names and "attention=none" in names[0]
    tested = [result.versus[name] for name in names if result.versus[name].difference.test != "none"]
    means = [100 * result.versus[name].difference.mean for name in names]
    assert [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "o"] == pytest.approx(means)
    for width, ends in (
        (2.4, [_ends(v.difference.mean, v.difference.half_width) for v in tested]),
        (1.2, [_ends(v.difference.mean, v.with_images.half_width) for v in tested]),
        (6, [(100 * v.equivalence.low, 100 * v.equivalence.high) for v in tested]),
    ):
        np.testing.assert_allclose(_lines(axis, width), ends)
    assert len(tested) == 2 < len(names)
    assert "the margin of 2 points, shaded" in caption and "attention=external" in axis.get_xlabel()
    dashed = [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--"]
    assert dashed == [-2, 2]


def test_without_a_margin_none_is_drawn(runs):
    figure, caption = forest(comparison.compare(*runs[:1], notes=runs[1]))
    assert not _lines(figure.axes[0], 6) and not figure.axes[0].patches and "margin" not in caption


def test_differences_without_an_interval_are_no_picture(tmp_path):
    write_arm(tmp_path, "eanet", {0: 0.4})
    assert forest(read_comparison(tmp_path)) is None
    write_arm(tmp_path, "vit", {0: 0.4})
    assert forest(read_comparison(tmp_path)) is None
