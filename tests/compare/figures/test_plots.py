"""What the pictures of a comparison are drawn from."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from eanet.compare.figures import plots as comparison_plots
from helpers import runs
from helpers.finished_runs import change_json, read_comparison, write_ablation, write_arm


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


def _history(arm, metric):
    """Read [runs, epochs] of a metric from the files, where an epoch ends."""
    rows = [runs.rows(run.workdir) for run in arm.runs]
    return np.array([[row[metric] for row in some if "val/loss" in row] for some in rows])


def test_curves_are_the_means_with_their_bands(result):
    figure, caption = comparison_plots.curves(result)
    loss, accuracy = figure.axes
    assert caption.endswith("bands, of validation: 95% intervals over the seeds.")
    for axis, metric in ((loss, "loss"), (accuracy, "accuracy")):
        lines = [line for line in axis.lines if len(line.get_xdata()) == 3]
        validation, training = lines[::2], lines[1::2]
        assert [line.get_label() for line in validation] == [arm.name for arm in result.arms]
        for split, split_lines, style in (("val", validation, "-"), ("train", training, "--")):
            for line, arm in zip(split_lines, result.arms, strict=True):
                assert (
                    line.get_linestyle() == style and line.get_color() == validation[result.arms.index(arm)].get_color()
                )
                np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
                np.testing.assert_allclose(line.get_ydata(), _history(arm, f"{split}/{metric}").mean(0))
        assert len(axis.collections) == 3  # no band for the arm with one run
        values = _history(result.arms[0], f"val/{metric}")[:, -1]
        low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
        vertices = axis.collections[0].get_paths()[0].vertices
        ends = vertices[vertices[:, 0] == 3][:, 1]
        assert (ends.min(), ends.max()) == pytest.approx((low, high))
    (reference,) = [line for line in loss.lines if "no answer" in line.get_label()]
    assert reference.get_ydata()[0] == pytest.approx(np.log(10))
    shown = [
        value for arm in result.arms for split in ("val", "train") for value in _history(arm, f"{split}/accuracy").flat
    ]
    assert accuracy.get_ylim()[0] <= min(shown) and accuracy.get_ylim()[1] >= max(shown)


def _lines(axis):
    """Return x and y of each arm's line; the dots of single runs have no label."""
    labelled = [line for line in axis.lines if not line.get_label().startswith("_")]
    return {line.get_label(): (list(line.get_xdata()), pytest.approx(list(line.get_ydata()))) for line in labelled}


def test_accuracy_is_drawn_against_what_varies(result):
    figure, caption = comparison_plots.accuracy_against(result)
    axes = figure.axes
    assert [axis.get_title() for axis in axes] == ["against heads", "against parameters", "against MMAC"]
    assert caption == (
        "Test accuracy against heads, parameters and MMAC: means over the seeds; bars: 95% intervals over the seeds; "
        "small dots: single runs."
    )
    means = [arm.estimate("test/accuracy").mean for arm in result.arms]
    assert _lines(axes[0]) == {"attention=external": ([2, 4, 16], means[:3]), "attention=self": ([4], means[3:])}
    assert _lines(axes[1])["attention=self"] == ([623_268], means[3:])
    dots = [line for line in axes[0].lines if line.get_marker() == "."]
    several = [arm for arm in result.arms if len(arm.runs) > 1]
    assert sorted(y for line in dots for y in line.get_ydata()) == pytest.approx(
        sorted(run.results["test/accuracy"] for arm in several for run in arm.runs)
    )
    bars = [list(line.get_ydata()) for line in axes[0].lines if line.get_marker() == "_"]
    values = [list(arm.values("test/accuracy").values()) for arm in several]
    assert bars == [pytest.approx(stats.t.interval(0.95, 2, np.mean(some), stats.sem(some))) for some in values]
    # A line joins what differs in heads, but not arms that cost the same.
    assert [axis.lines[0].get_linestyle() for axis in axes] == ["-", "None", "None"]


def test_memory_is_drawn_in_slots(tmp_path):
    for i, size in enumerate((0, 8, 64)):  # 0 stands for dim // dim_coefficient = 16
        write_arm(tmp_path, "eanet", {0: 0.4 + i / 100}, model__memory_size=size)
    write_arm(tmp_path, "vit", {0: 0.3})
    figure, caption = comparison_plots.accuracy_against(read_comparison(tmp_path))
    assert caption == "Test accuracy against memory slots, parameters and MMAC."  # with one seed there is no spread
    axes = {axis.get_title(): axis for axis in figure.axes}
    x, _ = _lines(axes["against memory slots"])["attention=external"]
    assert x == [8, 16, 64] and "attention=self" not in _lines(axes["against memory slots"])
    assert "against heads" not in axes


def test_a_group_with_several_heads_has_no_place_on_their_axis(tmp_path):
    for heads, seed in ((2, 0), (4, 1)):
        write_arm(tmp_path, "eanet", {seed: 0.4}, model__num_heads=heads)
    write_arm(tmp_path, "vit", {0: 0.4}, model__num_heads=8)
    figure, caption = comparison_plots.accuracy_against(read_comparison(tmp_path, by=["model.attention"]))
    assert [axis.get_title() for axis in figure.axes] == ["against parameters", "against MMAC"]
    assert caption.startswith("Test accuracy against parameters and MMAC: means over the seeds; bars: the range of the")


def test_two_seeds_have_their_range_and_no_interval(tmp_path):
    """The t interval of two values is 12.7 times as wide as their distance, and fills a panel."""
    write_arm(tmp_path, "eanet", {0: 0.4, 1: 0.42})
    write_arm(tmp_path, "vit", {0: 0.43, 1: 0.44})
    result = read_comparison(tmp_path)
    figure, caption = comparison_plots.curves(result)
    assert caption.endswith("bands, of validation: the range of the two seeds.")
    for axis, metric in zip(figure.axes, ("loss", "accuracy"), strict=True):
        for arm, band in zip(result.arms, axis.collections, strict=True):
            values, vertices = _history(arm, f"val/{metric}")[:, -1], band.get_paths()[0].vertices
            ends = vertices[vertices[:, 0] == 3][:, 1]
            assert (ends.min(), ends.max()) == pytest.approx((values.min(), values.max()))
    figure, caption = comparison_plots.accuracy_against(result)
    assert caption.endswith("bars: the range of the two seeds; small dots: single runs.")
    bars = [list(line.get_ydata()) for line in figure.axes[0].lines if line.get_marker() == "_"]
    assert bars == [pytest.approx([0.4, 0.42]), pytest.approx([0.43, 0.44])]
    write_arm(tmp_path, "none", {0: 0.4, 1: 0.5, 2: 0.3})
    _, caption = comparison_plots.curves(read_comparison(tmp_path))
    assert caption.endswith("bands, of validation: 95% intervals over the seeds, or the range if there are two.")


def test_labels_of_an_axis_do_not_run_into_one_another(tmp_path):
    for heads in (1, 2, 4, 8, 16):
        for workdir in write_arm(tmp_path, "eanet", {0: 0.4}, model__num_heads=heads):
            change_json(workdir / "results.json", parameters=361_000 + heads**4, mmac=100.0 + heads)
    figure, _ = comparison_plots.accuracy_against(read_comparison(tmp_path))
    figure.canvas.draw()
    for axis in figure.axes:
        assert not any(label.get_text() for label in axis.get_xticklabels(minor=True))
        boxes = [label.get_window_extent() for label in axis.get_xticklabels() if label.get_text()]
        assert len(boxes) >= 2 and all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes)), axis.get_title()
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "2", "4", "8", "16"]


def test_pictures_without_content_are_left_out(tmp_path):
    write_arm(tmp_path / "one", "eanet", {0: 0.4}, train__epochs=1)  # one arm, one epoch, n = 1
    drawn = comparison_plots.draw_all(read_comparison(tmp_path / "one"))
    assert list(drawn) == ["curves", "confusion"]
    figure, caption = drawn["curves"]
    assert [len(line.get_xdata()) for line in figure.axes[1].lines] == [1, 1]
    assert not figure.axes[1].collections and figure.axes[1].lines[0].get_marker() == "o"
    assert not any("band" in text or "mean" in text for _, text in drawn.values()) and "interval" not in caption
    for rate in (1e-3, 1e-2):
        write_arm(tmp_path / "rates", "eanet", {0: 0.4}, optimizer__learning_rate=rate)
    assert list(comparison_plots.draw_all(read_comparison(tmp_path / "rates"))) == ["curves", "classes", "confusion"]


def test_twelve_groups_can_be_told_apart(tmp_path):
    for heads in (1, 2, 4, 8, 16, 32):
        for arm in ("eanet", "vit"):
            write_arm(tmp_path, arm, {0: 0.4, 1: 0.41}, model__num_heads=heads)
    result = read_comparison(tmp_path)
    drawn = comparison_plots.draw_all(result)
    assert len(result.arms) == 12 and list(drawn) == ["curves", "accuracy", "classes", "confusion"]
    drawn, captions = ({name: picture[i] for name, picture in drawn.items()} for i in (0, 1))
    assert "band" not in captions["curves"] and not drawn["curves"].axes[0].collections
    validation = drawn["curves"].axes[0].lines[:24:2]
    assert len({line.get_color() for line in validation}) == 12
    assert [len(axis.patches) for axis in drawn["classes"].axes if axis.axison] == [10] * 11
    assert [len(x) for x, _ in _lines(drawn["accuracy"].axes[0]).values()] == [6, 6]
