"""The picture of a run: one seed, several, and a grid."""

from eanet.run import curves
from eanet.run.rows import combine
from eanet.training import metrics
from eanet.training.members import Member
from helpers import runs


def test_curves_show_the_seeds_interval_and_the_points_of_a_grid(three_seeds, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves.plt, "close", drawn.append)
    grid = [Member(0, (("learning_rate", rate),)) for rate in (0.1, 0.2)]
    rows = [{"epoch": 1.0} | {f"{one.point}/val/{name}": 0.5 for name in ("loss", "accuracy")} for one in grid]
    curves.draw(runs.rows(three_seeds[0]), tmp_path / "a.png", "seeds", 10, [Member(5), Member(6), Member(7)])
    curves.draw(rows, tmp_path / "b.png", "grid", 10, grid)
    two = [Member(0), Member(1)]
    numbers = [
        {f"{split}/{name}": value for split in ("train", "val") for name in metrics.NAMES} for value in (0.4, 0.5)
    ]
    rows = [{"epoch": epoch} | combine(two, dict(zip(two, numbers, strict=True))) for epoch in (1.0, 2.0)]
    curves.draw(rows, tmp_path / "c.png", "two", 10, two)
    seeds, points, pair = (figure.axes for figure in drawn)
    assert seeds[0].get_xlabel() == "epoch (bands: 95% intervals over the seeds)"
    assert points[0].get_xlabel() == "epoch" and pair[0].get_xlabel() == "epoch (bands: the range of the two seeds)"
    for axis, bands in zip(pair, (2, 4), strict=True):  # a t interval would be 12.7 times as wide
        ends = [band.get_paths()[0].vertices[:, 1] for band in axis.collections]
        assert [(some.min(), some.max()) for some in ends] == [(0.4, 0.5)] * bands
    assert len(seeds[0].collections) == 2 and len(seeds[1].collections) == 4  # bands
    assert [line.get_label() for line in points[0].lines][:2] == ["learning_rate=0.1", "learning_rate=0.2"]
