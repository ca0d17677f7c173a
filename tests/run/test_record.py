"""The files of a working directory."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from configs import default
from eanet.errors import UserError
from eanet.run import record as record_lib
from eanet.run.record import Record

_CONFIG = default.get_config().to_dict()


@pytest.fixture
def record(tmp_path):
    record = Record(tmp_path / "run")
    record.open(_CONFIG)
    record.begin(_CONFIG, 0, 0)
    return record


def test_the_list_of_files_is_complete_and_the_same_in_the_documentation():
    root = pathlib.Path(__file__).parents[2]
    page = (root / "docs/runs.md").read_text().partition("## The directory of a run")[2].partition("## ")[0]
    documented = [row.replace("`", "") for row in re.findall(r"^\| (`.+?) \|", page, re.MULTILINE)]
    assert documented == re.findall(r"^(\S+(?:, \S+)?)  +\S", record_lib.__doc__, re.MULTILINE)
    sources = "".join(path.read_text() for path in (root / "eanet").rglob("*.py"))
    written = set(re.findall(r"""(?:\.write\(|workdir / )f?"(.+?)\"""", sources))
    assert {"config.json", "checkpoints", "output.log", "evaluation-{split}.json"} <= written
    names = {name.rstrip("/") for names in documented for name in names.split(", ")}
    assert {re.sub(r"\{(\w+)\}", r"<\1>", name) for name in written} <= names


def test_going_on_drops_only_later_rows(record):
    for step in (1, 2, 3):
        record.append({"step": step})
    record.begin(_CONFIG, 2, 2)
    assert record.rows() == [{"step": 1}, {"step": 2}]


def test_a_line_cut_short_is_left_out_and_removed(record):
    record.append({"step": 1})
    with (record.workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "tra')
    assert record.rows() == [{"step": 1}]
    record.begin(_CONFIG, 1, 1)
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
    record.open(_CONFIG)
    record.begin(_CONFIG, 0, 0)
    record.append({"step": 1})
    record.write("results.json", {})
    record.write_predictions(predicted=np.zeros(1))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [("[1]", "holds no configuration"), ("{", "cannot be read"), ("[" * 200_000, "cannot be read")],
)
def test_what_is_no_configuration_is_one_line(record, content, says):
    (record.workdir / "config.json").write_text(content)
    with pytest.raises(UserError, match=rf"config\.json {says}"):
        record.check(_CONFIG)


def test_lost_rows_are_an_error_and_nothing_is_changed(record):
    for step in (1, 2, 3):
        record.append({"step": step})
    path = record.workdir / "metrics.jsonl"
    path.write_text(path.read_text().partition("\n")[2])  # without the first
    before = {file: file.read_bytes() for file in record.workdir.iterdir()}
    with pytest.raises(
        UserError, match=r"metrics\.jsonl has 1 rows up to step 2, of which the checkpoint knows 2: rows"
    ):
        record.begin(_CONFIG, 2, 2)
    assert before == {file: file.read_bytes() for file in record.workdir.iterdir()}


@pytest.mark.parametrize(
    "content", [b'{"step": 1}\n\xff\n', b"1\n", b"{}\n", b'{"step": "1"}\n', b"[\n", b"[" * 200_000 + b"\n"]
)
def test_rows_that_are_none_are_one_line(record, content):
    (record.workdir / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.jsonl(: line 1 holds other things| cannot be read)") as stop:
        record.begin(_CONFIG, 1, 1)
    assert stop.value.exit_code == 1


@pytest.mark.parametrize("content", ["[1]", "{", "1", '"a"'])
def test_notes_that_are_damaged_stop_nothing(record, content, capsys):
    (record.workdir / "environment.json").write_text(content)
    (record.workdir / "wandb.json").write_text(content)
    record.begin(_CONFIG, 0, 0)
    assert record.read("environment.json")["earlier_starts"] == []
    assert record.read_note("wandb.json") == {} == record.read_note("no.json")
    assert capsys.readouterr().err.count("is damaged and left out") == 2


def test_each_start_is_remembered(record):
    record.begin(_CONFIG, 0, 0)
    record.begin(_CONFIG, 0, 0)
    environment = json.loads((record.workdir / "environment.json").read_text())
    assert len(environment["earlier_starts"]) == 2
    assert all("earlier_starts" not in start for start in environment["earlier_starts"])


def test_an_unwritable_place_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Record(tmp_path / "file" / "run").open(_CONFIG)


def test_a_first_line_cut_short_is_removed_too(record):
    (record.workdir / "metrics.jsonl").write_text('{"step": 1, "tra')
    record.begin(_CONFIG, 0, 0)
    record.append({"step": 1})
    assert record.rows() == [{"step": 1}]


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line(record):
    (record.workdir / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(
        UserError, match=r"metrics\.jsonl cannot be written: No space left on device; .* resumes"
    ) as stop:
        record.append({"step": 1})
    assert stop.value.exit_code == 1
    (record.workdir / ".results.json").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"results\.json cannot be written: No space left on device"):
        record.write("results.json", {})
    assert not (record.workdir / "results.json").exists()


def test_a_directory_without_the_right_to_write_is_an_error_before_anything_happens(tmp_path, monkeypatch):
    """Asked of the system in a function of its own, as root has every right."""
    monkeypatch.setattr(os, "access", lambda path, mode: pathlib.Path(path) != tmp_path)
    with pytest.raises(UserError, match=f"--workdir={tmp_path / 'a' / 'b'} cannot be written: no right to write in "):
        Record(tmp_path / "a" / "b").check_place()
    assert not any(tmp_path.iterdir())


def test_two_of_one_directory_do_not_go_together(record):
    second = Record(record.workdir)
    for call in (lambda config: second.check_place(), second.open):
        with pytest.raises(UserError, match=f"--workdir={record.workdir} is in use by another process; ") as stop:
            call(_CONFIG)
        assert stop.value.exit_code == 1
    Record(record.workdir, primary=False).check_place()  # the other processes of the first run
    record.close()
    second.open(_CONFIG)
    second.close()


@pytest.mark.system
def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    """Though a child of it lives on, as W&B's service does."""
    script = (
        "import subprocess, sys, time; from eanet.run.record import Record;"
        f"record = Record(sys.argv[1]); record.open({_CONFIG}); record.begin({_CONFIG}, 0, 0);"
        "child = subprocess.Popen(['sleep', '60'], close_fds=False); print(child.pid, flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    try:
        record = Record(tmp_path)
        with pytest.raises(UserError, match="in use by another process"):
            record.check_place()
        with pytest.raises(UserError, match="in use by another process"):
            record.open(_CONFIG)
        holder.kill()
        holder.wait()
        record.open(_CONFIG)
    finally:
        os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.stdout.close()
