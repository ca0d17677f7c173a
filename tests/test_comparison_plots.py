"""What the pictures of a comparison are drawn from."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from finished_runs import answers, make_config, read_comparison, write_ablation, write_arm, write_run
from scipy import stats

from eanet import comparison_plots


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """External attention with 2, 4 and 16 heads and three seeds, and one run of self-attention."""
    root = tmp_path_factory.mktemp("ablation")
    write_ablation(root)
    return read_comparison(root)


def _history(group, metric):
    """Read [runs, epochs] of a metric from the files, where an epoch ends."""
    lines = [(run.workdir / "metrics.jsonl").read_text().splitlines() for run in group.runs]
    return np.array([[json.loads(line)[metric] for line in some if "val/loss" in line] for some in lines])


def test_curves_are_the_means_with_their_bands(result):
    loss, accuracy = comparison_plots.curves(result).axes
    for axis, metric in ((loss, "loss"), (accuracy, "accuracy")):
        lines = [line for line in axis.lines if len(line.get_xdata()) == 3]
        validation, training = lines[::2], lines[1::2]
        assert [line.get_label() for line in validation] == [group.name for group in result.groups]
        for split, split_lines, style in (("val", validation, "-"), ("train", training, "--")):
            for line, group in zip(split_lines, result.groups, strict=True):
                assert (
                    line.get_linestyle() == style
                    and line.get_color() == validation[result.groups.index(group)].get_color()
                )
                np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
                np.testing.assert_allclose(line.get_ydata(), _history(group, f"{split}/{metric}").mean(0))
        assert len(axis.collections) == 3  # no band for the group with one run
        values = _history(result.groups[0], f"val/{metric}")[:, -1]
        low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
        vertices = axis.collections[0].get_paths()[0].vertices
        ends = vertices[vertices[:, 0] == 3][:, 1]
        assert (ends.min(), ends.max()) == pytest.approx((low, high))
    (reference,) = [line for line in loss.lines if "no answer" in line.get_label()]
    assert reference.get_ydata()[0] == pytest.approx(np.log(10))
    shown = [
        value
        for group in result.groups
        for split in ("val", "train")
        for value in _history(group, f"{split}/accuracy").flat
    ]
    assert accuracy.get_ylim()[0] <= min(shown) and accuracy.get_ylim()[1] >= max(shown)


def _lines(axis):
    """Give x and y of each arm's line; the dots of single runs have no label."""
    labelled = [line for line in axis.lines if not line.get_label().startswith("_")]
    return {line.get_label(): (list(line.get_xdata()), pytest.approx(list(line.get_ydata()))) for line in labelled}


def test_accuracy_is_drawn_against_what_varies(result):
    axes = comparison_plots.accuracy_against(result).axes
    assert [axis.get_title() for axis in axes] == ["against heads", "against parameters", "against MMAC"]
    means = [group.estimate("test/accuracy").mean for group in result.groups]
    assert _lines(axes[0]) == {"attention=external": ([2, 4, 16], means[:3]), "attention=self": ([4], means[3:])}
    assert _lines(axes[1])["attention=self"] == ([623_268], means[3:])
    dots = [line for line in axes[0].lines if line.get_label().startswith("_")]
    assert sorted(y for line in dots for y in line.get_ydata()) == pytest.approx(
        sorted(run.results["test/accuracy"] for group in result.groups for run in group.runs)
    )


def test_memory_is_drawn_in_slots(tmp_path):
    for i, size in enumerate((0, 8, 64)):  # 0 stands for dim // dim_coefficient = 16
        write_arm(tmp_path, "eanet", {0: 0.4 + i / 100}, model__memory_size=size)
    write_arm(tmp_path, "vit", {0: 0.3})
    axes = {axis.get_title(): axis for axis in comparison_plots.accuracy_against(read_comparison(tmp_path)).axes}
    x, _ = _lines(axes["against memory slots"])["attention=external"]
    assert x == [8, 16, 64] and "attention=self" not in _lines(axes["against memory slots"])
    assert "against heads" not in axes


def test_a_group_with_several_heads_has_no_place_on_their_axis(tmp_path):
    for heads, seed in ((2, 0), (4, 1)):
        write_arm(tmp_path, "eanet", {seed: 0.4}, model__num_heads=heads)
    write_arm(tmp_path, "vit", {0: 0.4}, model__num_heads=8)
    axes = comparison_plots.accuracy_against(read_comparison(tmp_path, by=["model.attention"])).axes
    assert [axis.get_title() for axis in axes] == ["against parameters", "against MMAC"]


def test_pictures_without_content_are_left_out(tmp_path):
    write_arm(tmp_path / "one", "eanet", {0: 0.4}, train__epochs=1)  # one group, one epoch, n = 1
    drawn = comparison_plots.draw_all(read_comparison(tmp_path / "one"))
    assert list(drawn) == ["curves"]
    assert [len(line.get_xdata()) for line in drawn["curves"].axes[1].lines] == [1, 1]
    assert not drawn["curves"].axes[1].collections and drawn["curves"].axes[1].lines[0].get_marker() == "o"
    for rate in (1e-3, 1e-2):
        write_arm(tmp_path / "rates", "eanet", {0: 0.4}, optimizer__learning_rate=rate)
    assert list(comparison_plots.draw_all(read_comparison(tmp_path / "rates"))) == ["curves", "classes"]


def test_bars_are_the_differences_by_class(tmp_path):
    names = [f"$\\class_{i}$" for i in range(30)]  # what TeX would read is no formula here
    for arm in ("eanet", "vit"):
        for seed in (0, 1):
            correct = answers(0.4 + (arm == "vit") / 10, [seed, len(arm)], 3000)
            write_run(tmp_path / f"{arm}{seed}", make_config(arm, seed=seed), correct, names)
    result = read_comparison(tmp_path)
    figure = comparison_plots.class_differences(result)
    figure.canvas.draw()
    (axis,) = figure.axes
    assert axis.get_title() == "attention=self" and "attention=external" in figure.get_suptitle()
    right = [np.mean([run.correct.reshape(100, 30).mean(0) for run in group.runs], 0) for group in result.groups]
    difference = 100 * (right[1] - right[0])  # of labels 0 to 29, again and again
    bars = [bar.get_width() for bar in axis.patches]
    assert bars == pytest.approx(sorted(difference)[:12] + sorted(difference)[-12:])
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert [difference[names.index(label)] for label in labels] == pytest.approx(bars)
    colors = {bar.get_facecolor() for bar in axis.patches if bar.get_width() < 0}
    assert len(colors) == 1 and colors.isdisjoint(bar.get_facecolor() for bar in axis.patches if bar.get_width() > 0)


def test_twelve_groups_can_be_told_apart(tmp_path):
    for heads in (1, 2, 4, 8, 16, 32):
        for arm in ("eanet", "vit"):
            write_arm(tmp_path, arm, {0: 0.4, 1: 0.41}, model__num_heads=heads)
    result = read_comparison(tmp_path)
    drawn = comparison_plots.draw_all(result)
    assert len(result.groups) == 12 and list(drawn) == ["curves", "accuracy", "classes"]
    validation = drawn["curves"].axes[0].lines[:24:2]
    assert len({line.get_color() for line in validation}) == 12
    assert [len(axis.patches) for axis in drawn["classes"].axes if axis.axison] == [10] * 11
    assert [len(x) for x, _ in _lines(drawn["accuracy"].axes[0]).values()] == [6, 6]
