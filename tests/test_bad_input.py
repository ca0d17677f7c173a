"""Whatever is wrong with a command: one line that names it and says what is accepted, exit code 2, and no traces."""

import logging
import os
import signal
import sys
import time
import warnings

import jax
import pytest
import yaml
from absl import flags

from eanet.model import footprint
from helpers.bad_commands import ALONE, FIELDS, MAIN, OTHERS, TOGETHER, WEIGHTS, prepare
from helpers.bad_sweep_files import DIGITS, GRID, SWEEP_FILES
from helpers.commands import run_alone, run_here, snapshot

_SECONDS = 30  # for a refusal in a process of its own, beside other tests; alone it takes a few


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with good and bad files; nobody may change it."""
    directory = tmp_path_factory.mktemp("place")
    prepare(directory)
    return directory


@pytest.fixture
def run(capfd):
    """What runs commands in this process, which other tests find as it was."""

    def run(program, arguments, directory):
        before, done = _state(), run_here(program, arguments, directory, capfd)
        assert _state() == before
        return done

    return run


def _state():
    loggers = [logging.getLogger(name) for name in (None, "absl", "asyncio")]
    return {
        "directory": os.getcwd(),
        "argv": list(sys.argv),
        "environment": dict(os.environ),
        "flags": (flags.FLAGS.is_parsed(), sorted(flags.FLAGS), flags.FLAGS["verbosity"].value),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "warnings": list(warnings.filters),
        "logging": [(logger.level, list(logger.handlers)) for logger in loggers],
        "jax": dict(jax.config.values),
    }


def _check(run, place, program, arguments, says):
    """Run a command that must be refused as the issue demands; gives what it left."""
    before, done = snapshot(place), run(program, arguments, place)
    assert "Traceback" not in done.stderr, done.stderr
    assert (done.code, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    assert done.stderr.startswith("error: ") and len(done.stderr) < 1200 and done.stderr[:-1].isprintable()
    for text in says:
        assert text in done.stderr, done.stderr
    assert snapshot(place) == before
    return done


def _ids(entries):
    return [ascii(" ".join(map(str, entry[:-1])).replace(DIGITS, "digits.py"))[:60] for entry in entries]


@pytest.mark.parametrize(("override", "accepted"), FIELDS, ids=_ids(FIELDS))
def test_a_bad_value_of_a_field(run, place, override, accepted):
    field = override.partition("=")[0]
    arguments = [DIGITS, "--config.wandb.mode=disabled", f"--config.{override}", "--workdir=new"]
    _check(run, place, "main.py", arguments, [f"config.{field}=", f"accepted: {accepted}"])


@pytest.mark.parametrize(("overrides", "says"), TOGETHER, ids=_ids(TOGETHER))
def test_values_that_do_not_go_together(run, place, overrides, says):
    arguments = [DIGITS, "--config.wandb.mode=disabled", *(f"--config.{override}" for override in overrides)]
    _check(run, place, "main.py", arguments, says)


@pytest.mark.parametrize(("value", "says"), WEIGHTS, ids=_ids(WEIGHTS))
def test_bad_initial_weights(run, place, value, says):
    """For a network without attention, whose parameters are counted in milliseconds."""
    fields = ["model.attention=none", "wandb.mode=disabled", f"init_from={value}"]
    _check(run, place, "main.py", [DIGITS, *(f"--config.{field}" for field in fields)], says)


@pytest.mark.parametrize(("arguments", "says"), MAIN, ids=_ids(MAIN))
def test_a_bad_command_line(run, place, arguments, says):
    _check(run, place, "main.py", arguments, says)


@pytest.mark.parametrize(("changes", "says"), SWEEP_FILES, ids=[says[0][:60] for _, says in SWEEP_FILES])
@pytest.mark.parametrize("arguments", [[], ["--dry-run"]], ids=["run", "dry"])
def test_a_bad_sweep_file(run, tmp_path, changes, says, arguments):
    whole = isinstance(changes, bytes)
    content = changes if whole else yaml.safe_dump(GRID | changes, sort_keys=False).encode()
    (tmp_path / "sweep.yaml").write_bytes(content)
    _check(run, tmp_path, "eanet.sweep", ["sweep.yaml", *arguments], says)


@pytest.mark.parametrize(("program", "arguments", "says"), OTHERS, ids=_ids(OTHERS))
def test_a_bad_command_line_of_another_program(run, place, program, arguments, says):
    _check(run, place, program, arguments, says)


def test_a_sweep_has_no_place_for_its_runs(run, tmp_path):
    (tmp_path / "runs").touch()
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(GRID))
    _check(run, tmp_path, "eanet.sweep", ["good.yaml"], ["runs/good", "is a file", "accepted"])


def test_the_table_is_long_enough_and_its_files_are_right_elsewhere(run, place, monkeypatch):
    """What is refused above is refused for the reason that is named: without it the same commands are taken."""
    assert sum(map(len, (FIELDS, TOGETHER, WEIGHTS, MAIN, SWEEP_FILES, OTHERS))) >= 100
    dry = run("eanet.sweep", ["good.yaml", "--dry-run"], place)
    assert (dry.code, dry.stderr) == (0, "") and "2 runs" in dry.stdout
    monkeypatch.setattr(footprint, "activation_bytes", lambda *_: 0)  # compiled for seconds
    for program, arguments in (("eanet.evaluate", ["--help"]), ("eanet.cost", [DIGITS, "--config.model.depth=1"])):
        done = run(program, arguments, place)
        assert (done.code, done.stderr) == (0, "") and done.stdout


@pytest.mark.system
@pytest.mark.parametrize(("program", "arguments", "says"), ALONE, ids=_ids(ALONE))
def test_a_process_of_its_own_says_the_same(run, place, program, arguments, says):
    started = time.perf_counter()
    alone = _check(run_alone, place, program, arguments, [says])
    assert time.perf_counter() - started < _SECONDS
    assert alone == run(program, arguments, place)
