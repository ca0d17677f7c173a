"""The planned numbers of seeds and hours, from chosen deviations and from records."""

import math
import sys

import pytest

from eanet import plan, statistics
from eanet.compare import finished_run
from eanet.errors import UserError
from helpers.finished_runs import change_json, read_comparison, write_arm
from helpers.sweep_files import write

_OURS = {0: 0.4, 1: 0.42, 2: 0.44}
_THEIRS = {0: 0.41, 1: 0.4425, 2: 0.445}


def _run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["plan", *arguments])
    plan.main()
    return capsys.readouterr().out


def test_seeds_follow_from_a_deviation(monkeypatch, capsys):
    """0.4 points in each of two unpaired arms are 0.57 between them."""
    deviation = math.sqrt(2) * 0.004
    expected = [
        statistics.seeds_for_difference(0.01, deviation, False),
        statistics.seeds_for_equivalence(0.01, deviation, False),
        statistics.seeds_for_equivalence(0.01, deviation, False, 0.005),
    ]
    printed = _run(monkeypatch, capsys, "--margin=1", "--deviation=0.4")
    (row,) = [line.split() for line in printed.splitlines() if line.startswith("as given")]
    assert row[-5:] == ["0.57", *map(str, expected), "–"] and expected == sorted(expected)
    assert "takes 21 seeds of each by a rank test, whatever the deviation" in printed and "brackets" not in printed


def test_more_than_can_be_counted_is_said(monkeypatch, capsys):
    printed = _run(monkeypatch, capsys, "--margin=0.001", "--deviation=50")
    assert printed.count("> 10,000") == 3


def test_runs_give_the_paired_deviation_its_limit_and_hours(tmp_path, monkeypatch, capsys):
    write_arm(tmp_path, "eanet", _OURS)
    write_arm(tmp_path, "vit", _THEIRS)
    result = read_comparison(tmp_path)
    (spread,) = plan.spreads_of_runs(result)
    (versus,) = result.versus.values()
    assert (spread.deviation, spread.df, spread.paired) == (versus.difference.deviation, 2, True)
    seconds = sum(arm.estimate("seconds").mean for arm in result.arms)
    assert spread.hours == pytest.approx(seconds / 3600)
    printed = _run(monkeypatch, capsys, "--margin=1", f"--runs={tmp_path}")
    limit = statistics.deviation_limit(spread.deviation, 2)
    likely, careful = (statistics.seeds_for_equivalence(0.01, one, True) for one in (spread.deviation, limit))
    assert f"{100 * spread.deviation:.2f} ({100 * limit:.2f})" in printed and f"{likely} ({careful})" in printed
    assert careful > likely and "In brackets: with its upper 80% limit" in printed


def test_one_arm_is_planned_against_another_like_it(tmp_path):
    write_arm(tmp_path, "eanet", _OURS)
    (spread,) = plan.spreads_of_runs(read_comparison(tmp_path))
    assert (spread.deviation, spread.df, spread.paired) == (pytest.approx(math.sqrt(2) * 0.02), 2, False)


@pytest.mark.parametrize(
    "arms, why",
    [
        ({"eanet": {0: 0.4}}, "one run says nothing"),
        ({"eanet": {0: 0.4}, "vit": {0: 0.5}}, "one run says nothing"),
        ({"eanet": {0: 0.7, 1: 0.7, 2: 0.7}}, "the seeds of the arm do not vary"),  # whose variance rounds to 1e-32
        ({"eanet": {0: 0.4, 1: 0.5}, "vit": {0: 0.5, 1: 0.6}}, "the differences do not vary"),
    ],
)
def test_one_seed_and_seeds_that_agree_are_no_plan(tmp_path, arms, why):
    for arm, accuracies in arms.items():
        write_arm(tmp_path, arm, accuracies)
    with pytest.raises(UserError, match=f"{why}.*; accepted: runs of two"):
        plan.spreads_of_runs(read_comparison(tmp_path))


def test_a_sweep_costs_what_its_nearest_runs_took(tmp_path, monkeypatch, capsys):
    """Scaled by multiply-adds and epochs; a point takes the run with its own attention, whatever the seed."""
    for workdir in (*write_arm(tmp_path / "runs", "eanet", _OURS), *write_arm(tmp_path / "runs", "vit", _THEIRS)):
        seconds = {"seconds_compile": 0.0, "seconds_train": 3600.0, "seconds_evaluate": 0.0}
        change_json(workdir / "results.json", **seconds)
    command = [
        "${env}",
        "${interpreter}",
        "${program}",
        "--config=configs/eanet.py",
        "--config.train.epochs=6",
        "${args}",
    ]
    parameters = {
        "config.model.attention": {"values": ["external", "self", "linear"]},
        "config.seed": {"values": [0, 1, 2]},
    }
    file = write(tmp_path / "sweep.yaml", command=command, parameters=parameters)
    runs, _ = finished_run.find_runs([tmp_path / "runs"])
    rows = plan.hours_of_sweep(str(file), runs)
    assert [name for name, *_ in rows] == ["attention=external", "attention=self", "attention=linear"]
    # The records have three epochs, and the multiply-adds of configs/eanet.py and configs/vit.py.
    assert [hours for _, hours, _ in rows[:2]] == pytest.approx([2.0, 2.0], rel=1e-3)
    assert rows[0][2].startswith("eanet-") and rows[1][2].startswith("vit-")
    printed = _run(monkeypatch, capsys, "--margin=1", f"--runs={tmp_path / 'runs'}", f"--sweep={file}")
    (total,) = [line.split() for line in printed.splitlines() if line.startswith("all ")]
    hours = sum(hours for _, hours, _ in rows)
    assert float(total[1]) == pytest.approx(hours, abs=0.01)
    (spread,) = plan.spreads_of_runs(read_comparison(tmp_path / "runs"))
    limit = statistics.deviation_limit(spread.deviation, spread.df)
    likely, careful = (plan.seeds_needed(0.01, each, True, tests=2).equivalence for each in (spread.deviation, limit))
    assert f"hours of {likely} ({careful}) seeds" in printed and likely < careful
    assert " ".join(total[2:4]) == f"{likely * hours:,.1f} ({careful * hours:,.1f})"
    assert "at 5%, which 2 tests against the baseline share (Bonferroni)" in printed


def test_a_sweep_of_other_data_is_refused(tmp_path):
    write_arm(tmp_path / "runs", "eanet", _OURS)
    runs, _ = finished_run.find_runs([tmp_path / "runs"])
    with pytest.raises(UserError, match=r"config.data.name='digits', the runs 'cifar100'; accepted: the same"):
        plan.hours_of_sweep(str(write(tmp_path / "sweep.yaml")), runs)
