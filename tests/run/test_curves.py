"""The picture of a run: one seed, several, and a grid."""

import numpy as np
import pytest

from eanet.run import curves
from eanet.run.rows import combine
from eanet.training import metrics
from eanet.training.members import Member


def test_curves_show_the_seeds_interval_and_the_points_of_a_grid(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves.plt, "close", drawn.append)
    numbers = [
        {f"{split}/{name}": value for split in ("train", "val") for name in metrics.NAMES} for value in (0.4, 0.5, 0.7)
    ]
    three = [Member(5), Member(6), Member(7)]
    recorded = [{"epoch": epoch} | combine(three, dict(zip(three, numbers, strict=True))) for epoch in (1.0, 2.0)]
    curves.draw(recorded, tmp_path / "seeds.png", "seeds", 10, three)
    grid = [Member(0, (("learning_rate", rate),)) for rate in (0.1, 0.2)]
    two = [Member(0), Member(1)]
    for name, members in (("grid", grid), ("two", two)):
        row = combine(members, dict(zip(members, numbers[:2], strict=True)))
        last = combine(members, {members[0]: numbers[0]})  # the other one has diverged
        rows = [{"epoch": epoch} | values for epoch, values in ((1.0, row), (2.0, row), (3.0, last))]
        curves.draw(rows, tmp_path / f"{name}.png", name, 10, members)
    seeds, points, pair = (figure.axes for figure in drawn)
    assert seeds[0].get_xlabel() == "epoch (bands: 95% intervals over the seeds)"
    assert points[0].get_xlabel() == "epoch" and pair[0].get_xlabel() == "epoch (bands: the range of the two seeds)"
    for axis, bands in zip(pair, (2, 4), strict=True):  # a t interval would be 12.7 times as wide
        corners = [band.get_paths()[0].vertices for band in axis.collections]
        assert [(some[:, 1].min(), some[:, 1].max()) for some in corners] == [(0.4, 0.5)] * bands
        assert [some[:, 0].max() for some in corners] == [2] * bands
        assert all(list(line.get_ydata()) == [0.45, 0.45, 0.4] for line in axis.lines[:bands])
        assert {line.get_marker() for line in axis.lines[:bands]} == {"o"}
    assert len(seeds[0].collections) == 2 and len(seeds[1].collections) == 4  # bands
    assert list(seeds[0].lines[1].get_ydata()) == pytest.approx([row["val/loss"] for row in recorded])
    assert [line.get_label() for line in points[0].lines][:2] == ["learning_rate=0.1", "learning_rate=0.2"]
    assert [list(line.get_ydata()) for line in points[0].lines[:2]] == [[0.4, 0.4, 0.4], [0.5, 0.5]]
    for axes in (seeds, points, pair):
        assert axes[0].lines[-1].get_ydata()[0] == pytest.approx(np.log(10))
