"""SIGKILL at random moments: the same command resumes, and the end has the bits of a run that nobody disturbed."""

import random
import time

import pytest

from helpers import runs

pytestmark = pytest.mark.system

_RUN = (*runs.TOY, "--config.train.epochs=6", "--config.train.steps_per_call=1")
# Runs main.py until a file is about to get its name, or has just got it.
_KILLED_AT = """
import os, pathlib, runpy, signal, sys
when, name = sys.argv[1:3]
replace = os.replace
def replace_or_die(source, target):
    if pathlib.Path(target).name == name and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if pathlib.Path(target).name == name:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace_or_die
sys.argv = ["main.py", *sys.argv[3:]]
runpy.run_path("main.py", run_name="__main__")
"""


def _started(workdir, process):
    """Wait for the notes of this start; compiling follows."""
    path = workdir / "environment.json"
    before = path.read_bytes() if path.exists() else b""
    return runs.wait_until(lambda: path.exists() and path.read_bytes() != before, process)


def _compiling(workdir, process, chance):
    hit = _started(workdir, process)
    time.sleep(chance.uniform(0, 1))
    return hit


def _in_an_epoch(workdir, process, chance):
    if not _started(workdir, process):
        return False
    known, more = runs.count_rows(workdir), chance.randint(1, 3)
    hit = runs.wait_until(lambda: runs.count_rows(workdir) >= known + more, process)
    time.sleep(chance.uniform(0, 0.02))
    return hit


def _saving(workdir, process, chance):
    """While a checkpoint has its temporary name, or just after."""

    def unfinished():
        return {path.name for path in workdir.glob("checkpoints/*tmp*")}

    old = unfinished()  # of an earlier kill
    hit = runs.wait_until(lambda: unfinished() - old, process)
    time.sleep(chance.choice([0, 0.003, 0.01, 0.03, 0.1]))
    return hit


def _kill_again_and_again(arguments, workdir, seed, kills, **environment):
    """Kill a run at moments of every kind, six or more; give how often each was met while the process lived."""
    chance = random.Random(seed)
    arguments = (*arguments, f"--workdir={workdir}")
    kinds = (_compiling, _in_an_epoch, _saving)
    met = dict.fromkeys((*kinds, "results"), 0)
    for moment in (*kinds, *chance.choices(kinds, k=kills - 6)):
        process = runs.start(*arguments, **environment)
        try:
            hit = moment(workdir, process, chance)
        finally:
            process.kill()
            text = process.communicate()[0]
        print(f"{moment.__name__}, {runs.count_rows(workdir)} rows, exit code {process.returncode}")
        assert process.returncode in (-9, 0) and "damaged" not in text, text
        met[moment] += bool(hit) and process.returncode == -9
    # Results come last: after them there is nothing left to kill.
    for when, name in (("before", "predictions.npz"), ("before", "results.json"), ("after", "results.json")):
        process = runs.start(*arguments, program=("-c", _KILLED_AT, when, name), **environment)
        text = process.communicate(timeout=480)[0]
        assert process.returncode == -9 and "damaged" not in text, text
        assert (workdir / "results.json").exists() == (when == "after")
        met["results"] += 1
    code, text = runs.complete(*arguments, **environment)
    assert code == 0 and "is finished" in text, text
    return met


@pytest.mark.parametrize("streaming", ["never", "always"])
def test_a_run_survives_kills(tmp_path, streaming):
    """Short: a kill or more at every kind of moment. The cache is empty, so that it compiles."""
    own = (*_RUN, f"--config.data.streaming={streaming}")
    code, text = runs.complete(*own, f"--workdir={tmp_path / 'whole'}")
    assert code == 0, text
    met = _kill_again_and_again(own, tmp_path / "killed", 0, 6, EANET_CACHE_DIR=str(tmp_path / "cache"))
    assert sum(met.values()) >= 5 and met["results"] == 3, met
    runs.assert_equal(tmp_path / "killed", tmp_path / "whole", own)


_LONG = {
    "external": (),
    "self": ("--config.model.attention=self", "--config.optimizer.warmup_epochs=2.0"),
    "two seeds": ("--config.num_seeds=2", "--config.checkpoint.keep=1"),
    "a grid": ("--config.vary.learning_rate=(1e-3,3e-3)", "--config.checkpoint.every_epochs=2"),
    "micro-batches": ("--config.train.microbatch=8", "--config.train.steps_per_call=0"),
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", _LONG)
def test_many_kinds_of_runs_survive_many_kills(tmp_path, name):
    """Ten kills each, fifty in all."""
    arguments = (*_RUN, "--config.train.epochs=15", *_LONG[name])
    code, text = runs.complete(*arguments, f"--workdir={tmp_path / 'whole'}")
    assert code == 0, text
    met = _kill_again_and_again(arguments, tmp_path / "killed", f"kills of {name}", 10)
    print(met)
    assert sum(met.values()) >= 8, met
    runs.assert_equal(tmp_path / "killed", tmp_path / "whole", arguments)
