"""SIGKILL at random moments: the same command goes on, and the end has the bits of a run that nobody disturbed."""

import random
import time

import pytest

import runs

_RUN = (*runs.TOY, "--config.train.epochs=6", "--config.train.steps_per_call=1")


def _started(workdir, process):
    """Wait for the notes of this start; reading data, initialising and compiling follow."""
    path = workdir / "environment.json"
    before = path.read_bytes() if path.exists() else b""
    return runs.wait_until(lambda: path.exists() and path.read_bytes() != before, process)


def _compiling(workdir, process, chance):
    if _started(workdir, process):
        time.sleep(chance.uniform(0, 2))


def _in_an_epoch(workdir, process, chance):
    if _started(workdir, process):
        known = runs.count_rows(workdir)
        if runs.wait_until(lambda: runs.count_rows(workdir) >= known + chance.randint(1, 3), process):
            time.sleep(chance.uniform(0, 0.02))


def _saving(workdir, process, chance):
    """While a checkpoint has its temporary name, or just after."""
    if _started(workdir, process) and runs.wait_until(lambda: any(workdir.glob("checkpoints/*tmp*")), process):
        time.sleep(chance.choice([0, 0.003, 0.01, 0.03, 0.1]))


def _writing_results(workdir, process, chance):
    names = (".predictions.npz", "predictions.npz", ".curves.png", ".results.json")
    if runs.wait_until(lambda: any((workdir / name).exists() for name in names), process):
        time.sleep(chance.choice([0, 0.01, 0.1, 0.3]))


def _kill_again_and_again(arguments, workdir, seed, kills, **environment):
    """Kill a run at moments of every kind, five or more in all; give how often it was not done yet when that came."""
    chance = random.Random(seed)
    first = (_compiling, _in_an_epoch, _saving)
    # Results come last: after them there is nothing left to kill.
    moments = [*first, *chance.choices(first, k=kills - 5), _writing_results, _writing_results]
    survived = 0
    for moment in moments:
        process = runs.start(*arguments, f"--workdir={workdir}", **environment)
        try:
            moment(workdir, process, chance)
        finally:
            process.kill()
            text = process.communicate()[0]
        print(f"{moment.__name__}, {runs.count_rows(workdir)} rows, exit code {process.returncode}")
        assert process.returncode in (-9, 0), text
        assert "damaged" not in text
        survived += process.returncode == -9
    code, text = runs.complete(*arguments, f"--workdir={workdir}", **environment)
    assert code == 0, text
    assert "damaged" not in text
    return survived


def test_a_run_survives_kills(tmp_path):
    """Short: a kill at every kind of moment. The cache is empty, so that it compiles."""
    code, text = runs.complete(*_RUN, f"--workdir={tmp_path / 'whole'}")
    assert code == 0, text
    survived = _kill_again_and_again(_RUN, tmp_path / "killed", 0, 5, EANET_CACHE_DIR=str(tmp_path / "cache"))
    assert survived >= 4
    runs.assert_equal(tmp_path / "killed", tmp_path / "whole", _RUN)


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
    arguments = (*_RUN, *_LONG[name])
    code, text = runs.complete(*arguments, f"--workdir={tmp_path / 'whole'}")
    assert code == 0, text
    assert _kill_again_and_again(arguments, tmp_path / "killed", f"kills of {name}", 10) >= 8
    runs.assert_equal(tmp_path / "killed", tmp_path / "whole", arguments)
