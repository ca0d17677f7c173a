"""Rows of several seeds: means, intervals, and what is shown at a glance."""

import pytest

from eanet.run.rows import combine, describe_results, progress_metrics
from eanet.training.members import Member


def test_accuracies_have_no_interval_beyond_0_and_1():
    """The t interval of 1% and 3% begins below 0; that of a loss may."""
    two = [Member(0), Member(1)]
    names = ("test/loss", "test/accuracy", "test/top5_accuracy", "val/accuracy_best")
    row = combine(two, {one: dict.fromkeys(names, value) for one, value in zip(two, (0.01, 0.03), strict=True)})
    assert row["test/loss_low"] < 0
    for name in names[1:]:
        assert row[f"{name}_low"] == 0 and row[f"{name}_high"] == pytest.approx(0.02 + 12.7062 * 0.01, rel=1e-4)
    assert "accuracy 2.00% (0.00% to 14.71%, 95%, n = 2)" in describe_results(two, row)
    older = row | {"test/accuracy_low": -0.1, "test/accuracy_high": 1.2}  # as once recorded
    assert "accuracy 2.00% (0.00% to 100.00%, 95%, n = 2)" in describe_results(two, older)


def test_at_a_glance_seeds_are_averaged_and_points_of_a_grid_are_not():
    def numbers(trainer, **more):
        return {one: {"train/loss": 1.0 + i} | {name: values[i] for name, values in more.items()} for i, one in trainer}

    grid = [Member(seed, (("learning_rate", rate),)) for rate in (0.1, 0.2) for seed in (5, 6)]
    both = list(enumerate(grid))
    assert progress_metrics(grid, numbers(both)) == ("best of 2, learning_rate=0.1, mean of 2", {"train/loss": 1.5})
    whose, means = progress_metrics(grid, numbers(both, **{"val/accuracy": (0.3, 0.5, 0.4, 0.6)}))
    assert whose == "best of 2, learning_rate=0.2, mean of 2"
    assert means == {"train/loss": 3.5, "val/accuracy": 0.5}
    assert progress_metrics(grid, numbers(both[:1] + both[2:]))[0] == "best of 2, learning_rate=0.1, mean of 1"
    assert progress_metrics(grid[::2], numbers(enumerate(grid[::2])))[0] == "best of 2, learning_rate=0.1"
    seeds = [Member(5), Member(6)]
    assert progress_metrics(seeds, numbers(enumerate(seeds))) == ("mean of 2", {"train/loss": 1.5})
    assert progress_metrics(seeds[:1], numbers(enumerate(seeds[:1]))) == ("", {"train/loss": 1.0})
