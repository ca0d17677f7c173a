"""Runs that are in progress or were interrupted, read while they do."""

import csv
import json
import shutil
import sys

import pytest

from eanet.compare import __main__ as compare
from eanet.compare import unfinished
from eanet.compare.unfinished import find_runs_so_far
from eanet.errors import UserError


@pytest.fixture
def runs(finished, three_seeds, tmp_path):
    """A finished run, one of another learning rate interrupted after an epoch, one of three seeds, a new one."""
    root = tmp_path / "runs"
    shutil.copytree(finished[0], root / "a-finished")
    for name in ("b-interrupted", "c-new"):
        shutil.copytree(finished[0], root / name)
        (root / name / "results.json").unlink()
        config = json.loads((root / name / "config.json").read_text())
        config["optimizer"]["learning_rate"] = 1e-4 if name == "b-interrupted" else 1e-5
        config["train"]["epochs"] = 9
        (root / name / "config.json").write_text(json.dumps(config))
    rows = (root / "b-interrupted" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (root / "b-interrupted" / "metrics.jsonl").write_text(rows[0] + '{"step": 9, "cut')
    (root / "c-new" / "metrics.jsonl").unlink()
    shutil.copytree(three_seeds[0], root / "d-three")
    return root


def _call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments)])
    compare.main()


def test_every_run_is_there_with_its_epoch(runs):
    found = {run.name: run for run in find_runs_so_far([runs])}
    assert {name: run.progress for name, run in found.items()} == {
        "a-finished": "finished",
        "b-interrupted": "epoch 1 of 9",
        "c-new": "epoch 0 of 9",
        **{f"d-three/seed_{seed}": "finished" for seed in (5, 6, 7)},
    }
    assert [run.classes for run in found.values()] == [10] * 6
    assert len(found["d-three/seed_6"].rows) == 2 and found["c-new"].rows == []


def test_the_table_has_the_last_and_best_and_an_epoch_that_all_have(runs):
    found = find_runs_so_far([runs])
    columns, rows = unfinished.table(found)
    by_name = {row[1]: dict(zip(columns, row, strict=True)) for row in rows}
    assert columns[-1] == "validation % at epoch 1"
    own = next(run for run in found if run.name == "a-finished")
    accuracies = [100 * row["val/accuracy"] for row in own.rows]
    finished = by_name["a-finished"]
    assert finished["validation %"] == f"{accuracies[-1]:.2f}" and finished[columns[-1]] == f"{accuracies[0]:.2f}"
    assert finished["best validation %"] == f"{max(accuracies):.2f}" and finished["so far"] == "finished"
    assert by_name["b-interrupted"]["validation %"] == by_name["b-interrupted"][columns[-1]]
    assert by_name["c-new"]["validation %"] == by_name["c-new"]["images/s"] == by_name["c-new"][columns[-1]] == "–"
    assert len({row["arm"] for row in by_name.values()}) == 3  # the learning rates; seeds are no arms


def test_the_command_prints_and_writes_without_a_test_or_a_verdict(runs, monkeypatch, capsys):
    _call(monkeypatch, runs, "--unfinished")
    said = capsys.readouterr().out
    assert "epoch 1 of 9" in said and "no verdict here" in said and "p (Holm)" not in said and "test acc" not in said
    out = runs / "comparison"
    assert {path.name for path in out.iterdir()} == {"unfinished.html", "unfinished.csv", "unfinished.svg"}
    rows = list(csv.DictReader((out / "unfinished.csv").open()))
    assert len(rows) == 6 and {row["so far"] for row in rows} == {"finished", "epoch 1 of 9", "epoch 0 of 9"}
    page = (out / "unfinished.html").read_text()
    assert "b-interrupted: epoch 1 of 9" in page and page.count("<tr>") == 7


def test_finished_runs_alone_and_runs_without_an_epoch_are_shown_too(runs, monkeypatch, capsys):
    for name in ("a-finished", "c-new"):
        _call(monkeypatch, runs / name, "--unfinished")
    assert "not finished (none)" in (runs / "a-finished" / "comparison" / "unfinished.html").read_text()
    assert "not finished (c-new: epoch 0 of 9)" in (runs / "c-new" / "comparison" / "unfinished.html").read_text()


@pytest.mark.parametrize("flag", ["--margin=1", "--variance", "--baseline=x", "--by=model.dim"])
def test_what_belongs_to_tests_is_refused(runs, monkeypatch, flag):
    with pytest.raises(UserError, match=f"^--unfinished and {flag.partition('=')[0]}: accepted without it"):
        _call(monkeypatch, runs, "--unfinished", flag)


def test_a_directory_without_runs_and_runs_of_different_data_are_refused(runs, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no run under .*empty"):
        find_runs_so_far([tmp_path / "empty"])
    with pytest.raises(UserError, match="is not a directory"):
        find_runs_so_far([tmp_path / "nothing"])
    config = json.loads((runs / "c-new" / "config.json").read_text())
    config["data"]["validation_fraction"] = 0.3
    (runs / "c-new" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="validation_fraction is .* do not compare"):
        find_runs_so_far([runs])


def test_a_row_without_its_numbers_is_named(runs):
    path = runs / "a-finished" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"train/accuracy"', '"train/other"'))
    with pytest.raises(UserError, match="metrics.jsonl has an epoch without epoch, val/loss, .*train/accuracy"):
        find_runs_so_far([runs])


def test_a_run_of_an_older_version_has_no_line_at_the_loss_of_no_answer(runs):
    (runs / "a-finished" / "data.json").unlink()
    (run,) = find_runs_so_far([runs / "a-finished"])
    assert run.classes is None
    figure, _ = unfinished.curves([run])
    assert len(figure.axes[0].lines) == 1
    assert len(unfinished.curves(find_runs_so_far([runs / "b-interrupted"]))[0].axes[0].lines) == 3


@pytest.mark.system
def test_the_page_is_whole_in_a_browser(runs, monkeypatch, open_page):
    _call(monkeypatch, runs, "--unfinished")
    for scheme, width in (("light", 1280), ("dark", 400)):
        page = open_page(runs / "comparison" / "unfinished.html", scheme, width)
        assert page.locator("tbody tr").count() == 6
        assert page.locator("figure img").evaluate("one => one.naturalWidth > 0")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
