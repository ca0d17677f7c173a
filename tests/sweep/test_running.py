"""Sweeps without W&B as a user meets them: toy runs, and a stand-in for main.py where only order counts."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from eanet import cli
from eanet.sweep import __main__ as sweep
from helpers import runs
from helpers.wandb_clients import TOY

_ROOT = pathlib.Path(__file__).parents[2]
_TOY = (*TOY, "--config.wandb.mode=disabled")
# Notes when it runs, and leaves what the sweep reads of a finished run.
_STAND_IN = """
import json, os, pathlib, sys, time
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
workdir = pathlib.Path(flags["workdir"])
pathlib.Path("started").open("a").write(f"{os.getpid()} {workdir.name}\\n")
begin = time.time()
time.sleep(float(os.environ.get("STAND_IN_SECONDS", "1")))
if flags.get("config.train.batch_size") == "500":
    sys.exit("\\n".join(f"line {i}" for i in range(20)))
pathlib.Path("times").open("a").write(f"{begin} {time.time()}\\n")
(workdir / "metrics.jsonl").write_text('{"step": 1000000, "epoch": 1000000}\\n')
(workdir / "results.json").write_text(json.dumps({"val/accuracy_best": int(flags["config.seed"]) / 8}))
"""


def _write(directory, parameters, program=_ROOT / "main.py", flags=_TOY, **changes):
    command = ["${env}", "${interpreter}", "${program}", f"--config={_ROOT}/configs/digits.py", *flags, "${args}"]
    content = {"program": str(program), "method": "grid", "command": command, "parameters": parameters} | changes
    path = directory / "toy.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def _stand_in(directory, parameters, **changes):
    program = directory / "stand_in.py"
    program.write_text(_STAND_IN)
    return _write(directory, parameters, program, **changes)


def _start(directory, *arguments, **environment):
    """Start on the sweep file of a directory."""
    command = [sys.executable, "-m", "eanet.sweep", "toy.yaml", *arguments]
    own = os.environ | {"PYTHONPATH": str(_ROOT)} | environment
    return subprocess.Popen(
        command, cwd=directory, env=own, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _end(process, seconds):
    """Return the exit code and what was printed; a process that does not end takes no test with it."""
    try:
        printed = process.communicate(timeout=seconds)[0]
        return process.returncode, printed
    finally:
        process.kill()


def _sweep(directory, *arguments, **environment):
    """Run the sweep file of a directory to its end."""
    return _end(_start(directory, *arguments, **environment), 400)


def _main(monkeypatch, directory, *arguments):
    """Call the command line in this process, where nothing is started; gives the exit code."""
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "argv", ["sweep", "toy.yaml", *arguments])
    return cli.run(sweep.main)


def _workdirs(directory):
    return sorted((directory / "runs" / "toy").iterdir())


def _json(path):
    return json.loads(path.read_text())


def _numbers(workdir):
    """Return everything that a run has measured, but not how long it took."""
    results = _json(workdir / "results.json")
    return [*runs.rows(workdir), {name: value for name, value in results.items() if "second" not in name}]


def _times(directory):
    """Note when every file below a directory was written last."""
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


@pytest.fixture
def signals():
    """Where pytest runs in the background its children would ignore SIGINT, under nohup SIGHUP."""
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _await(condition, process, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline or process.poll() is not None:
            process.kill()
            pytest.fail(f"waited in vain:\n{process.stdout.read()}")
        time.sleep(0.05)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep of which one point cannot run: its batch is larger than the training set."""
    directory = tmp_path_factory.mktemp("swept")
    sizes = {"config.train.batch_size": {"values": [500, 32]}, "config.seed": {"values": [3]}}
    _write(directory, sizes, flags=[flag for flag in _TOY if "batch_size" not in flag])
    return directory, _sweep(directory, "--", "--config.train.epochs=1")


@pytest.mark.system
def test_a_failing_point_is_told_with_its_last_lines_and_the_others_finish(swept):
    directory, (code, printed) = swept
    assert code == 1
    good, bad = _workdirs(directory)
    assert re.fullmatch(r"digits-batch_size=32-[0-9a-f]{8}", good.name) and "batch_size=500" in bad.name
    assert f"failed  {bad.name}" in printed and re.search(
        rf"done  {good.name}  val/accuracy_best \d+\.\d\d%  ", printed
    )
    assert "exit code 2" in printed and "config.train.batch_size=500 is larger than" in printed
    accuracy = _json(good / "results.json")["val/accuracy_best"]
    assert f"toy: 1 of 2 done, 1 failed, best val/accuracy_best {accuracy:.2%} ({good.name})" in printed


@pytest.mark.system
def test_what_stands_after_the_dashes_reaches_the_runs(swept):
    workdir = _workdirs(swept[0])[0]
    config = _json(workdir / "config.json")
    assert (config["train"]["epochs"], config["train"]["batch_size"], config["seed"]) == (1, 32, 3)
    assert _json(workdir / "results.json")["epochs"] == 1
    assert f"--workdir=runs/toy/{workdir.name}" in _json(workdir / "environment.json")["command"]


@pytest.mark.system
def test_a_finished_point_is_left_alone_and_a_failed_one_tried_again(swept):
    good, bad = _workdirs(swept[0])
    before, tries = _times(good), (bad / "output.log").read_text().count("error:")
    code, printed = _sweep(swept[0], "--", "--config.train.epochs=1")
    assert code == 1 and "toy: 1 of 2 done, 1 failed" in printed
    assert _times(good) == before
    assert (bad / "output.log").read_text().count("error:") == tries + 1


@pytest.mark.system
def test_a_dry_run_prints_every_command_with_its_state_and_starts_nothing(swept, monkeypatch, capsys):
    directory, before, extra = swept[0], _times(swept[0]), ("--", "--config.train.epochs=1")
    assert _main(monkeypatch, directory, "--dry-run", *extra) == 0
    new, done, count = capsys.readouterr().out.splitlines()
    assert new.startswith(f"[new] {sys.executable} ") and "--config.train.batch_size=500 " in new
    assert done.startswith("[done] ") and done.endswith(f" --workdir=runs/toy/{_workdirs(directory)[0].name}")
    assert count == "2 runs"
    assert _main(monkeypatch, directory, "--dry-run", "--seeds=3,5", *extra) == 0
    *lines, count = capsys.readouterr().out.splitlines()
    states = [(line.split()[0], re.search(r"seed=(\d)", line)[1]) for line in lines]
    assert states == [("[new]", "3"), ("[new]", "5"), ("[done]", "3"), ("[new]", "5")] and count == "4 runs"
    assert _times(directory) == before


def test_shards_are_disjoint_and_together_everything(monkeypatch, tmp_path, capsys):
    _write(tmp_path, {"config.model.num_heads": {"values": [2, 4, 8]}, "config.seed": {"values": [0, 1, 2]}})
    parts = {}
    for shard in ("1/1", "1/2", "2/2", "1/4", "2/4", "3/4", "4/4", "11/11"):
        assert _main(monkeypatch, tmp_path, "--dry-run", f"--shard={shard}") == 0
        *parts[shard], count = capsys.readouterr().out.splitlines()
        assert count == f"{len(parts[shard])} runs"
    assert len(set(parts["1/1"])) == 9 and len(parts["1/2"]) == 5 and not parts["11/11"]
    for n in (2, 4):
        assert sorted(sum((parts[f"{i}/{n}"] for i in range(1, n + 1)), [])) == sorted(parts["1/1"])


@pytest.mark.system
def test_an_interrupted_sweep_goes_on_to_the_same_numbers(signals, tmp_path):
    """The run saves and ends, the waiting one is not started; the reference has both at the same time."""
    extra = ("--", "--config.train.epochs=120")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for directory in (whole, stopped):
        directory.mkdir()
        _write(directory, {"config.seed": {"values": [0, 1]}})
    assert _sweep(whole, "--jobs=2", *extra)[0] == 0
    process = _start(stopped, *extra)
    _await(lambda: [*stopped.glob("runs/toy/*/metrics.jsonl")], process)
    process.send_signal(signal.SIGINT)
    code, printed = _end(process, 180)
    again = f"resume with  python -m eanet.sweep toy.yaml {' '.join(extra)}\n"
    assert code == 130 and f"SIGINT: stopped and saved; {again}" in printed
    (workdir,) = _workdirs(stopped)
    assert any((workdir / "checkpoints").iterdir()) and not (workdir / "results.json").exists()
    assert "SIGINT at step" in (workdir / "output.log").read_text()
    assert re.match(r"\[\d+%\] .*\n\[new\] ", _sweep(stopped, "--dry-run", *extra)[1])
    code, printed = _sweep(stopped, *extra)
    assert code == 0 and "toy: 2 of 2 done" in printed and "python -m eanet.compare runs/toy" in printed
    assert len(_json(workdir / "environment.json")["earlier_starts"]) == 1
    for ours, theirs in zip(_workdirs(stopped), _workdirs(whole), strict=True):
        assert ours.name == theirs.name and _numbers(ours) == _numbers(theirs)


@pytest.mark.system
def test_bayes_runs_its_trials_and_finds_them_again(tmp_path):
    seeds = {"config.seed": {"distribution": "int_uniform", "min": 1, "max": 1000}}
    _write(tmp_path, seeds, method="bayes", run_cap=2, flags=(*_TOY, "--config.train.epochs=1"))
    code, printed = _sweep(tmp_path)
    assert code == 0 and "toy: 2 of 2 done" in printed and "done  digits-seed=" in printed
    before = _times(tmp_path / "runs")
    assert len({_json(workdir / "config.json")["seed"] for workdir in _workdirs(tmp_path)}) == 2
    code, printed = _sweep(tmp_path)
    assert code == 0 and "toy: 2 of 2 done" in printed and _times(tmp_path / "runs") == before


def _started(directory):
    """Return the process and the directory of every stand-in that was started."""
    path = directory / "started"
    return [line.split(" ", 1) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.system
@pytest.mark.parametrize("jobs", [1, 2])
def test_so_many_run_at_a_time(jobs, monkeypatch, tmp_path, capsys):
    """One had all its rows before, but no results, as where Ctrl-C hits the test: it is not done yet."""
    _stand_in(tmp_path, {"config.seed": {"values": [0, 1, 2, 3]}})
    for _ in range(2):
        assert _main(monkeypatch, tmp_path, "--dry-run") == 0
        plan = capsys.readouterr().out
        assert "[done]" not in plan
        first = tmp_path / re.search(r"--workdir=(\S+)", plan)[1]
        first.mkdir(parents=True, exist_ok=True)
        (first / "metrics.jsonl").write_text('{"step": 1000000, "epoch": 1000000}\n')
    code, printed = _sweep(tmp_path, f"--jobs={jobs}")
    assert code == 0 and "toy: 4 of 4 done, best val/accuracy_best 37.50%" in printed
    spans = [tuple(map(float, line.split())) for line in (tmp_path / "times").read_text().splitlines()]
    assert len(spans) == 4 and max(sum(b <= at < e for b, e in spans) for at, _ in spans) == jobs


@pytest.mark.system
@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_point_that_comes_twice_is_run_once(method, tmp_path):
    _stand_in(tmp_path, {"config.seed": {"values": [0, 1]}}, method=method, run_cap=7)
    code, printed = _sweep(tmp_path, "--jobs=3", STAND_IN_SECONDS="0.2")
    assert code == 0 and len(_started(tmp_path)) == 2, printed
    assert f"toy: {'2 of 2' if method == 'random' else '7 of 7'} done" in printed


@pytest.mark.system
def test_the_last_lines_of_a_failure_are_shown_and_bayes_goes_on(tmp_path):
    parameters = {"config.train.batch_size": {"values": [500, 32]}, "config.seed": {"value": 4}}
    _stand_in(tmp_path, parameters, method="bayes", run_cap=4, flags=())
    code, printed = _sweep(tmp_path, STAND_IN_SECONDS="0")
    assert code == 1 and re.search(r"failed .*\n +exit code 1\n( +line 1[5-9]\n){5}", printed)
    assert "line 14" not in printed and "best val/accuracy_best 50.00%" in printed


@pytest.mark.system
def test_a_proposal_that_the_configuration_refuses_is_a_failed_point(tmp_path):
    parameters = {"config.model.num_heads": {"values": [3, 4]}, "config.seed": {"values": [1, 2]}}
    _stand_in(tmp_path, parameters, method="bayes", run_cap=6, flags=())
    code, printed = _sweep(tmp_path, STAND_IN_SECONDS="0")
    assert code == 1 and "num_heads=3 does not divide" in printed
    assert re.search(r"toy: [1-5] of 6 done, [1-5] failed, best", printed)


@pytest.mark.system
def test_a_command_that_cannot_be_started_is_a_failed_point(tmp_path):
    command = ["no-such-python", "${program}", f"--config={_ROOT}/configs/digits.py", "${args}"]
    _stand_in(tmp_path, {"config.seed": {"values": [0, 1]}}, command=command)
    code, printed = _sweep(tmp_path)
    assert code == 1 and "toy: 0 of 2 done, 2 failed" in printed and "no-such-python" in printed
    assert "Traceback" not in printed


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_no_child_outlives_its_sweep(number, signals, tmp_path):
    _stand_in(tmp_path, {"config.seed": {"values": [0, 1, 2]}})
    process = _start(tmp_path, "--jobs=2", STAND_IN_SECONDS="30")
    _await(lambda: len(_started(tmp_path)) == 2, process)
    process.send_signal(number)
    code, printed = _end(process, 20)
    assert code == 128 + number and f"{number.name}: stopped" in printed
    for pid, _ in _started(tmp_path):
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    assert len(_started(tmp_path)) == 2, "a waiting point was started after the signal"
