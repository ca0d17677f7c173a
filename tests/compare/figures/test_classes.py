"""What the pictures of a comparison's classes are drawn from."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest

from eanet.compare.figures import classes as comparison_classes
from helpers.finished_runs import answers, make_config, read_comparison, write_arm, write_run

_SUPERCLASSES = {"superclass_name": np.array(["even", "odd"]), "superclass_of": np.arange(30, dtype=np.int32) % 2}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_bars_are_the_differences_by_class(tmp_path):
    names = [f"$\\class_{i}$" for i in range(30)]  # what TeX would read is no formula here
    for arm in ("eanet", "vit"):
        for seed in (0, 1):
            correct = answers(0.4 + (arm == "vit") / 10, [seed, len(arm)], 3000)
            write_run(tmp_path / f"{arm}{seed}", make_config(arm, seed=seed), correct, names)
    result = read_comparison(tmp_path)
    figure, caption = comparison_classes.differences(result)
    figure.canvas.draw()
    (axis,) = figure.axes
    assert axis.get_title() == "attention=self" and "to attention=external, of the 12 classes at either end" in caption
    boxes = [label.get_window_extent() for label in axis.get_yticklabels()]
    assert all(one.y1 < other.y0 for one, other in itertools.pairwise(boxes))
    assert min(label.get_fontsize() for label in axis.get_yticklabels()) >= 9
    right = [np.mean([run.correct.reshape(100, 30).mean(0) for run in arm.runs], 0) for arm in result.arms]
    difference = 100 * (right[1] - right[0])  # of labels 0 to 29, again and again
    bars = [bar.get_width() for bar in axis.patches]
    assert bars == pytest.approx(sorted(difference)[:12] + sorted(difference)[-12:])
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert [difference[names.index(label)] for label in labels] == pytest.approx(bars)
    colors = {bar.get_facecolor() for bar in axis.patches if bar.get_width() < 0}
    assert len(colors) == 1 and colors.isdisjoint(bar.get_facecolor() for bar in axis.patches if bar.get_width() > 0)


def test_superclasses_are_taken_for_one_another(tmp_path):
    """30 classes: what is wrong is taken for the next class, which is of the other superclass."""
    names = [f"class {i}" for i in range(30)]
    for arm, accuracies in {"eanet": (0.5, 0.7), "none": (0.1, 0.2), "vit": (0.8, 0.9)}.items():
        for seed, accuracy in enumerate(accuracies):
            correct = np.arange(3000) % 1000 < 1000 * accuracy  # as many of each superclass
            write_run(tmp_path / f"{arm}{seed}", make_config(arm, seed=seed), correct, names)
    assert comparison_classes.confusion(read_comparison(tmp_path)) is None  # nobody knows superclasses, 30 are too many
    path = tmp_path / "vit1" / "predictions.npz"
    np.savez(path, **np.load(path), **_SUPERCLASSES)  # the newest record of them all
    figure, caption = comparison_classes.confusion(read_comparison(tmp_path))
    external, best, _ = figure.axes
    assert [axis.get_title() for axis in (external, best)] == ["attention=external", "attention=self"]
    assert [label.get_text() for label in external.get_yticklabels()] == ["even", "odd"]
    assert [label.get_text() for label in best.get_xticklabels()] == ["even", "odd"]
    np.testing.assert_allclose(external.collections[0].get_array(), [[60, 40], [40, 60]])
    np.testing.assert_allclose(best.collections[0].get_array(), [[85, 15], [15, 85]])
    assert [text.get_text() for text in best.texts] == ["85", "15", "15", "85"]
    assert "the best other arm, attention=self" in caption and "true superclass" in caption and "mean" in caption


def test_a_few_classes_are_taken_for_one_another(tmp_path):
    write_arm(tmp_path, "eanet", {0: 0.25})
    result = read_comparison(tmp_path)
    figure, caption = comparison_classes.confusion(result)
    (run,) = result.arms[0].runs
    shares = figure.axes[0].collections[0].get_array()
    right = [100 * run.correct[run.labels == i].mean() for i in range(10)]
    np.testing.assert_allclose(np.diag(shares), right)
    np.testing.assert_allclose(shares[np.arange(10), (np.arange(10) + 1) % 10], 100 - np.array(right))
    assert caption.startswith("What is taken for what on the test images by all runs: a row is a true class")
