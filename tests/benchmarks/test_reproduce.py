"""The reproduction benchmark at toy size: resumable, with a table and a picture."""

import json
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_TOY = [
    *("--config.data.train_limit=12", "--config.train.batch_size=8", "--config.train.epochs=2"),
    *("--config.model.depth=1", "--config.model.dim=16", "--config.model.mlp_dim=16"),
]


def _reproduce(*arguments):
    command = [sys.executable, "-m", "benchmarks.reproduce", *arguments]
    return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=240)


def test_arms_and_seeds_are_tabulated_and_finished_runs_are_skipped(tmp_path, tfds_dir):
    arguments = [f"--data-dir={tfds_dir}", f"--out={tmp_path}", "--arms=keras3,vit", "--seeds=0,1", *_TOY]
    done = _reproduce(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    summaries = json.loads((tmp_path / "table.json").read_text())
    assert [(summary["arm"], summary["n"]) for summary in summaries] == [("keras3", 2), ("vit", 2)]
    first = [json.loads((tmp_path / f"keras3-s{i}" / "results.json").read_text())["test/accuracy"] for i in (0, 1)]
    assert summaries[0]["test/accuracy"] == pytest.approx(sum(first) / 2)
    assert summaries[0]["test/accuracy_deviation"] == pytest.approx(abs(first[0] - first[1]) / 2**0.5)
    assert "17.26 / 38.94" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    again = _reproduce(*arguments)
    assert again.stdout.count("is finished") == 4


def test_an_unknown_arm_is_an_error_that_names_what_is_accepted(tmp_path):
    done = _reproduce("--arms=keras4", f"--out={tmp_path}")
    assert done.returncode == 2
    assert "'keras4'; accepted: keras2021, keras3" in done.stderr
