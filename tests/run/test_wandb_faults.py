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

import pytest

from helpers import runs
from helpers.wandb_clients import DIGITS, TOY, Clients
from helpers.wandb_server import WandbServer

pytestmark = pytest.mark.system

_EPOCHS = 60  # of three steps; a row each
_EARLY = 8  # rows after which something happens midway
_SLOW = pytest.mark.slow
# What a fault at the start, one midway, and W&B's own processes may add to the time of a run without W&B.
_START_SECONDS, _END_SECONDS, _PROCESS_SECONDS = 20, 40, 15


@dataclasses.dataclass
class Outcome:
    """A run that has ended: when it started, had its first row seen and ended, and what it left and said."""

    workdir: pathlib.Path
    text: str
    returncode: int
    seconds: float

    @property
    def rows(self):
        return runs.rows(self.workdir)

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
    while process.poll() is None and time.monotonic() < started + 300:
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
    # Generous, as other tests run beside it: a second of waiting at each row would be a minute.
    assert outcome.results["seconds_train"] < 4 * undisturbed.results["seconds_train"] + 5
    assert outcome.seconds_rows < 2 * undisturbed.seconds_rows + 15
    assert outcome.seconds < 1.5 * undisturbed.seconds + seconds


def _assert_one_warning(outcome):
    """Return the command that it names."""
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
    assert time.monotonic() - stopped[0] < 45
    assert outcome.returncode == 128 + signal.SIGTERM
    assert "saved; the same command resumes" in outcome.text
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


def test_a_killed_run_has_every_row_once(server, clients):
    """The server has rows that are made again, or lacks rows that were not sent before the kill."""
    workdir = clients.directory / "run"
    flags = (*TOY, "--config.train.epochs=60", "--config.checkpoint.every_epochs=5", f"--workdir={workdir}")
    process = clients.start("main.py", DIGITS, *flags, "--config.wandb.mode=online")
    limit = time.monotonic() + 300
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
    rows = runs.rows(workdir)
    assert [row["step"] for row in run.history if "step" in row] == [row["step"] for row in rows]
    assert len(rows) == 60
