"""The files of a working directory."""

import json

import numpy as np
import pytest

from eanet.errors import UserError
from eanet.record import Record


@pytest.fixture
def record(tmp_path):
    record = Record(tmp_path / "run")
    record.open({"seed": 1})
    return record


def test_truncate_drops_only_later_rows(record):
    for step in (1, 2, 3):
        record.append({"step": step})
    record.truncate(2)
    assert record.rows() == [{"step": 1}, {"step": 2}]


def test_a_line_cut_short_is_left_out_and_removed(record):
    record.append({"step": 1})
    with (record.workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "tra')
    assert record.rows() == [{"step": 1}]
    record.truncate(1)
    record.append({"step": 2})
    assert record.rows() == [{"step": 1}, {"step": 2}]


def test_a_failed_write_leaves_the_old_file(record):
    record.write("results.json", {"a": 1})
    with pytest.raises(TypeError):
        record.write("results.json", {"a": object()})
    assert record.read("results.json") == {"a": 1}


def test_a_broken_file_is_named(record):
    (record.workdir / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results\.json cannot be read"):
        record.read("results.json")


def test_only_the_primary_process_writes(tmp_path):
    record = Record(tmp_path / "run", primary=False)
    record.open({})
    record.append({"step": 1})
    record.write("results.json", {})
    record.write_predictions(predicted=np.zeros(1))
    assert not (tmp_path / "run").exists()


def test_each_start_is_remembered(record):
    record.open({"seed": 1})
    record.open({"seed": 1})
    environment = json.loads((record.workdir / "environment.json").read_text())
    assert len(environment["earlier_starts"]) == 2
    assert all("earlier_starts" not in start for start in environment["earlier_starts"])


def test_an_unwritable_place_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Record(tmp_path / "file" / "run").open({})
