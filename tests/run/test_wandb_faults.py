"""What W&B's server, its process and the disk can do to a run: nothing, but for one line; and it is uploaded later.

W&B's real client in real runs, against a server on this machine that can be made to fail.
"""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import time
import types

import pytest

from eanet.run import tracking
from eanet.run.record import Record
from helpers.tiny import tiny_config
from helpers.wandb_clients import DIGITS, TOY, Clients
from helpers.wandb_server import WandbServer

_EPOCHS = 60  # of three steps; a row each
_EARLY = 8  # rows after which something happens midway
_SLOW = pytest.mark.slow
# What a fault at the start, one midway, and W&B's own processes may add to the time of a run without W&B.
_START_SECONDS, _END_SECONDS, _PROCESS_SECONDS = 12, 22, 8


@dataclasses.dataclass
class Outcome:
    """A run that has ended: when it started, had its first row seen and ended, and what it left and said."""

    workdir: pathlib.Path
    text: str
    returncode: int
    seconds: float

    @property
    def rows(self):
        lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "train/images_per_second"} for line in lines]

    @property
    def results(self):
        return json.loads((self.workdir / "results.json").read_text())

    @property
    def seconds_rows(self):
        """Seconds from the first row to the last, with all that training waits for."""
        return (self.workdir / "metrics.jsonl").stat().st_mtime - float((self.workdir / "first").read_text())

    @property
    def warnings(self):
        return [line for line in self.text.splitlines() if line.startswith("warning")]


def _fail(server, fault):
    if fault == "dead":
        server.stop()
    else:
        server.fault = fault


def _kill_core(process):
    """Kill the process of W&B that belongs to a run, as the kernel does where memory runs out."""
    listed = subprocess.run(["ps", "-e", "-ww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in listed.splitlines() if re.search(rf"wandb-core .*--pid {process.pid}\b", line))
    os.kill(int(line.split()[0]), signal.SIGKILL)


def _run(clients, mode, midway=None, **environment):
    """Run the toy to its end; after some rows, call `midway` with its process."""
    workdir = clients.directory / "run"
    flags = (f"--config.train.epochs={_EPOCHS}", f"--config.wandb.mode={mode}", f"--workdir={workdir}")
    started = time.monotonic()
    process = clients.start("main.py", DIGITS, *TOY, *flags, **environment)
    file = workdir / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < started + 100:
        rows = file.read_text().count("\n") if file.exists() else 0
        if rows and not (workdir / "first").exists():
            (workdir / "first").write_text(str(time.time()))
        if midway and rows >= _EARLY:
            assert rows < _EPOCHS, "too late for anything to happen midway"
            midway(process)
            midway = None
        time.sleep(0.02)
    text = clients.output(process, 1)
    return Outcome(workdir, text, process.returncode, time.monotonic() - started)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same run without W&B; it fills the cache of compiled programs, and may take the longer for it."""
    with WandbServer() as server:
        outcome = _run(Clients(server, tmp_path_factory.mktemp("undisturbed")), "disabled")
    assert outcome.returncode == 0 and len(outcome.rows) == _EPOCHS and not outcome.warnings
    return outcome


@pytest.fixture
def clients(server, tmp_path):
    clients = Clients(server, tmp_path)
    try:
        yield clients
    finally:
        clients.close()


def _assert_nothing_is_missing(outcome, undisturbed, seconds):
    """The run is what it is without W&B, and took no longer than that and so many seconds."""
    assert outcome.returncode == 0, outcome.text
    assert outcome.rows == undisturbed.rows
    assert outcome.results.keys() == undisturbed.results.keys()
    for name, value in undisturbed.results.items():
        if not re.search("seconds|per_second", name):
            assert outcome.results[name] == value, name
    # Generous to a noisy machine: a run that waits a second for the network at each row takes a minute longer.
    assert outcome.results["seconds_train"] < 4 * undisturbed.results["seconds_train"] + 1
    assert outcome.seconds_rows < 2 * undisturbed.seconds_rows + 3
    assert outcome.seconds < 1.5 * undisturbed.seconds + seconds


def _assert_one_warning(outcome):
    """Gives the command that it names."""
    (warning,) = outcome.warnings
    assert warning.startswith("warning: W&B: ")
    assert not re.search("^wandb:|Traceback", outcome.text, re.MULTILINE), outcome.text
    return re.search(r"  (wandb sync .+)$", warning)[1]


def _assert_uploaded(server, clients, outcome, command):
    """The command, as printed, uploads the whole run to the server, well again, and no row twice."""
    server.fault = ""
    if not server.running:
        server.start()
    _wandb, *arguments = shlex.split(command)
    clients.wandb(*arguments)
    run = server.runs[re.search(r"-(\w+)$", command)[1]]
    logged = [row for row in run.history if "epoch" in row]
    assert [{name: row.get(name) for name in ours} for ours, row in zip(outcome.rows, logged, strict=True)] == (
        outcome.rows
    )
    assert [row["_step"] for row in run.history] == list(range(len(run.history)))
    assert run.finished and run.exit_code == outcome.returncode
    assert run.config["parameters"] > 0, "facts are missing"
    if outcome.returncode == 0:
        assert {name: run.summary[name] for name in outcome.results} == outcome.results
        assert any(name.startswith("media/images/curves") for name in run.files)


@pytest.mark.parametrize("fault", ["dead", "401", "500", pytest.param("slow", marks=_SLOW)])
def test_a_server_that_fails_from_the_start(server, clients, undisturbed, fault):
    _fail(server, fault)
    outcome = _run(clients, "auto")
    _assert_nothing_is_missing(outcome, undisturbed, _START_SECONDS)
    command = _assert_one_warning(outcome)
    assert ("fault 401" if fault == "401" else f"no answer from {server.url}") in outcome.warnings[0]
    _assert_uploaded(server, clients, outcome, command)


@pytest.mark.parametrize("mode", ["auto", pytest.param("online", marks=_SLOW)])
@pytest.mark.parametrize("fault", ["dead", "401", pytest.param("500", marks=_SLOW), pytest.param("slow", marks=_SLOW)])
def test_a_server_that_fails_midway(server, clients, undisturbed, fault, mode):
    limit = {"dead": "6"}.get(fault, "15")  # what the default means for a dead server is tested below
    outcome = _run(clients, mode, lambda _: _fail(server, fault), WANDB_FINISH_TIMEOUT=limit)
    _assert_nothing_is_missing(outcome, undisturbed, _END_SECONDS + _PROCESS_SECONDS)
    command = _assert_one_warning(outcome)
    # Which of W&B's own words came first is chance: that it could not upload, or the server's answer as well.
    said = {"401": "uploading data", "500": "500 encountered"}.get(fault, f"not taken everything within {limit} s")
    assert said in outcome.warnings[0]
    _assert_uploaded(server, clients, outcome, command)


def test_the_process_of_wandb_dies_midway(server, clients, undisturbed):
    outcome = _run(clients, "auto", _kill_core)
    _assert_nothing_is_missing(outcome, undisturbed, _PROCESS_SECONDS)
    command = _assert_one_warning(outcome)
    assert "Error: " in outcome.warnings[0]
    _assert_uploaded(server, clients, outcome, command)


def test_a_healthy_server_has_everything_and_nothing_is_warned_of(server, clients, undisturbed):
    outcome = _run(clients, "auto")
    _assert_nothing_is_missing(outcome, undisturbed, _PROCESS_SECONDS)
    assert not outcome.warnings and "wandb sync" not in outcome.text
    assert not re.search("^wandb:", outcome.text, re.MULTILINE), outcome.text
    (run,) = server.runs.values()
    assert len(run.history) == _EPOCHS + 1 and run.finished


@pytest.mark.parametrize("fault", ["dead", pytest.param("slow", marks=_SLOW)])
def test_an_interrupted_run_whose_server_is_dead_ends_soon_and_goes_on(server, clients, undisturbed, fault):
    """Preempted with the 30 s that are usual; the next start waits for the upload, and one command uploads it all."""
    stopped = []

    def interrupt(process):
        _fail(server, fault)
        process.send_signal(signal.SIGTERM)
        stopped.append(time.monotonic())

    outcome = _run(clients, "auto", interrupt)
    assert time.monotonic() - stopped[0] < 26
    assert outcome.returncode == 128 + signal.SIGTERM
    assert "saved; the same command goes on" in outcome.text
    _assert_one_warning(outcome)
    interrupted = len(outcome.rows)

    server.fault = ""
    if not server.running:
        server.start()
    outcome = _run(clients, "auto")
    assert outcome.returncode == 0 and "Going on from step" in outcome.text
    assert _EARLY <= interrupted < len(outcome.rows) == _EPOCHS
    assert outcome.rows == undisturbed.rows
    assert not outcome.warnings and "an earlier part of the run has not been uploaded" in outcome.text
    _assert_uploaded(server, clients, outcome, re.search(r"^W&B, upload:  (wandb sync .+)$", outcome.text, re.M)[1])


@pytest.mark.parametrize("fault", ["401", pytest.param("dead", marks=_SLOW)])
def test_online_is_insisted_on(server, clients, fault):
    _fail(server, fault)
    outcome = _run(clients, "online")
    assert outcome.returncode == 1
    (line,) = (line for line in outcome.text.splitlines() if "error" in line)
    assert line.startswith("error: config.wandb.mode='online' cannot be had: ")
    assert "Traceback" not in outcome.text and not (outcome.workdir / "results.json").exists()


class _FakeRun:
    """A run of W&B of which one method fails; it keeps what the others get."""

    id, offline, sync_dir, url = "fake", False, "wandb/run-fake", ""

    def __init__(self, broken="", error=None):
        self.rows, self.facts, self.numbers, self.ended = [], {}, {}, None
        self._broken, self._error = broken, error
        self.config = types.SimpleNamespace(update=lambda facts, **_: self._do("config", self.facts.update, facts))
        self.summary = types.SimpleNamespace(update=lambda some: self._do("summary", self.numbers.update, some))

    def _do(self, name, action, *arguments):
        if name == self._broken:
            raise self._error
        action(*arguments)

    def define_metric(self, *_, **__):
        self._do("define_metric", lambda: None)

    def log(self, row):
        self._do("log", self.rows.append, row)

    def finish(self, exit_code):
        self._do("finish", setattr, self, "ended", exit_code)


_ERRORS = [OSError(28, "No space left on device"), BrokenPipeError(), AssertionError(), KeyError("x"), TimeoutError()]


@pytest.mark.parametrize("method", ["config", "log", "summary", "finish"])
@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_wandb_raises_the_run_is_written_again(tmp_path, capsys, method, error):
    record, again = Record(tmp_path), _FakeRun()
    tracker = tracking.Tracker(_FakeRun(method, error), tmp_path, lambda run_id: again)
    tracker.describe({"parameters": 3})
    rows = [{"step": step, "epoch": float(step)} for step in (1, 2, 3)]
    for row in rows:
        record.append(row)
        tracker.log(row)
    tracker.finish({"test/accuracy": 0.5}, exit_code=7)
    assert (again.rows, again.facts, again.numbers) == (rows, {"parameters": 3}, {"test/accuracy": 0.5})
    assert again.ended == 7
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: W&B: ") and "wandb sync" in line
    assert type(error).__name__ in line


@pytest.mark.parametrize("method", ["define_metric", "log", "finish"])
def test_where_it_cannot_be_written_again_either_the_run_still_ends_well(tmp_path, capsys, method):
    def reopen(run_id):
        return _FakeRun(method, OSError(28, "No space left on device"))

    tracker = tracking.Tracker(reopen(""), tmp_path, reopen)
    Record(tmp_path).append({"step": 1, "epoch": 1.0})
    tracker.log({"step": 1, "epoch": 1.0})
    tracker.finish({}, exit_code=0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (method != "define_metric")
    assert all("not for W&B (OSError: [Errno 28] No space left on device)" in line for line in lines)


@pytest.mark.parametrize("broken", ["init", "define_metric", "setup", "login"])
def test_whatever_wandb_raises_at_the_start_the_run_goes_on(tmp_path, capsys, monkeypatch, broken):
    import wandb

    def fail(*_, **__):
        raise RuntimeError("no luck\nat all")

    fake = _FakeRun(broken, RuntimeError("no luck"))
    monkeypatch.setattr(wandb, "init", fail if broken == "init" else lambda **_: fake)
    if broken in ("setup", "login"):
        monkeypatch.setattr(wandb, broken, fail)
    tracker = tracking.start(tiny_config(wandb__mode="auto").to_dict(), tmp_path, "", primary=True)
    assert tracker.run_id == ("fake" if broken == "login" else "")
    tracker.log({"step": 1, "epoch": 1.0})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: W&B: RuntimeError: no luck; ")


def test_a_killed_run_has_every_row_once(server, clients):
    """The server has rows that are made again, or lacks rows that were not sent before the kill."""
    workdir = clients.directory / "run"
    flags = (*TOY, "--config.train.epochs=60", "--config.checkpoint.every_epochs=5", f"--workdir={workdir}")
    process = clients.start("main.py", DIGITS, *flags, "--config.wandb.mode=online")
    limit = time.monotonic() + 100
    file = workdir / "metrics.jsonl"
    while not file.exists() or file.read_text().count("\n") < 18:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)  # with the process of W&B
    process.wait()
    again = clients.start("main.py", DIGITS, *flags, "--config.wandb.mode=online")
    text = clients.output(again)
    assert again.returncode == 0 and "Going on from step" in text, text
    (run,) = server.runs.values()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["step"] for row in run.history if "step" in row] == [row["step"] for row in rows]
    assert len(rows) == 60


@pytest.mark.parametrize("offline", [False, True])
def test_rows_that_the_server_has_are_not_sent_again_and_those_it_lacks_are(offline):
    """An offline part knows nothing of the server, and holds what it was given."""
    sent = []
    run = types.SimpleNamespace(offline=offline, summary={"step": 8}, log=lambda row: sent.append(row["step"]))
    tracker = tracking.Tracker(run)
    tracker.catch_up([{"step": 4}, {"step": 8}, {"step": 12}])  # of a run that goes on from its checkpoint at 12
    tracker.log({"step": 16})
    assert sent == ([16] if offline else [12, 16])
    sent.clear()
    run.summary["step"] = 20  # the server has seen more than the checkpoint
    tracker.catch_up([{"step": 4}])
    for step in (8, 20, 24):
        tracker.log({"step": step})
    assert sent == ([8, 20, 24] if offline else [24])
