"""The records that are kept in the repository, and that their tables are what the command makes of them."""

import json
import pathlib
import re
import sys

import numpy as np
import pytest

from eanet.compare import __main__ as compare
from helpers.runs import ROOT, rows

_RESULTS = ROOT / "docs/results"
_FILES = {"config.json", "environment.json", "metrics.jsonl", "results.json", "predictions.npz"}
_RUNS = sorted(path.parent for path in _RESULTS.glob("*/*/results.json"))
_TABLES = sorted(_RESULTS.glob("*/comparison/comparison.md"))


def test_there_are_records_and_tables():
    assert _RUNS and _TABLES


@pytest.mark.parametrize("run", _RUNS, ids=lambda run: str(run.relative_to(_RESULTS)))
def test_a_record_is_whole_and_names_no_place_of_a_machine(run):
    assert {path.name for path in run.iterdir()} - {"data.json"} == _FILES
    for path in run.glob("*.json*"):
        text = path.read_text()
        assert not re.search(r'"(/|~|[A-Za-z]:\\)', text), path
        assert not re.search(r"[ =](/\w+){2,}", text), path
    results = json.loads((run / "results.json").read_text())
    assert results["epochs"] == json.loads((run / "config.json").read_text())["train"]["epochs"]


@pytest.mark.parametrize("table", _TABLES, ids=lambda table: table.parts[-3])
def test_the_table_is_what_the_command_makes(table, tmp_path, monkeypatch):
    command, text = ["compare", str(table.parents[1]), f"--out={tmp_path}"], table.read_text()
    if margin := re.search(r"With a margin of ([\d.]+) point", text):
        command.append(f"--margin={margin[1]}")
    if baseline := re.search(r"## Test accuracy against (.+)", text):
        command.append("--baseline=" + ",".join(f"model.{field}" for field in baseline[1].split(", ")))
    monkeypatch.setattr(sys, "argv", command)
    compare.main()
    assert (tmp_path / "comparison.md").read_text() == table.read_text()


def test_seeds_on_a_gpu_end_with_the_numbers_of_a_cpu():
    """As docs/results/README.md says."""
    pairs = 0
    for cpu in _RESULTS.glob("compact-cpu/*-seed=*"):
        arm, seed = re.fullmatch(r"(.*)-seed=(\d)-\w+", cpu.name).groups()
        (gpu,) = _RESULTS.glob(f"compact/{arm}-seed=0-*")
        ours, theirs = _predictions(cpu), _predictions(gpu)
        assert np.sum(ours["accuracy"]) == np.sum(theirs["accuracy"][int(seed)])
        assert np.sum(ours["predicted"] != theirs["predicted"][int(seed)]) <= 1
        for row, other in zip(rows(cpu), rows(gpu), strict=True):
            for loss in ("train/loss", "val/loss"):
                assert abs(row[loss] - other[f"seed_{seed}/{loss}"]) < 1e-5
        pairs += 1
    assert pairs == 6


def _predictions(run):
    with np.load(run / "predictions.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in ("accuracy", "predicted")}


def test_all_of_it_is_small():
    """A clone should not take long: 3 MiB of whole runs, and as much of reduced ones."""
    size = {path: path.stat().st_size for path in pathlib.Path(_RESULTS).rglob("*") if path.is_file()}
    reduced = sum(count for path, count in size.items() if _RESULTS / "reduced" in path.parents)
    assert reduced < 3 * 2**20 and sum(size.values()) - reduced < 3 * 2**20
