"""Whatever is wrong with a command: one line that names it and says what is accepted, exit code 2, and no traces."""

import os
import subprocess
import sys
import time

import pytest
import yaml

from helpers.bad_commands import DIGITS, FIELDS, GRID, MAIN, OTHERS, SWEEP_FILES, TOGETHER, prepare
from helpers.commands import ROOT, Commands, snapshot

_SECONDS = 10


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """What runs commands."""
    commands = Commands(tmp_path_factory.mktemp("commands"))
    yield commands
    commands.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with good and bad files; nobody may change it."""
    directory = tmp_path_factory.mktemp("place")
    prepare(directory)
    return directory


def _check(commands, place, program, arguments, says):
    """Run a command that must be refused as the issue demands."""
    before = snapshot(place)
    done = commands.run(program, arguments, place)
    assert "Traceback" not in done.stderr, done.stderr
    assert (done.code, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    assert done.stderr.startswith("error: ") and len(done.stderr) < 1200 and done.stderr[:-1].isprintable()
    for text in says:
        assert text in done.stderr, done.stderr
    assert done.seconds < _SECONDS
    assert snapshot(place) == before


def _ids(entries):
    return [ascii(" ".join(map(str, entry[:-1])).replace(DIGITS, "digits.py"))[:60] for entry in entries]


@pytest.mark.parametrize(("override", "accepted"), FIELDS, ids=_ids(FIELDS))
def test_a_bad_value_of_a_field(commands, place, override, accepted):
    field = override.partition("=")[0]
    arguments = [DIGITS, "--config.wandb.mode=disabled", f"--config.{override}", "--workdir=new"]
    _check(commands, place, "main.py", arguments, [f"config.{field}=", f"accepted: {accepted}"])


@pytest.mark.parametrize(("overrides", "says"), TOGETHER, ids=_ids(TOGETHER))
def test_values_that_do_not_go_together(commands, place, overrides, says):
    arguments = [DIGITS, "--config.wandb.mode=disabled", *(f"--config.{override}" for override in overrides)]
    _check(commands, place, "main.py", arguments, says)


@pytest.mark.parametrize(("arguments", "says"), MAIN, ids=_ids(MAIN))
def test_a_bad_command_line(commands, place, arguments, says):
    _check(commands, place, "main.py", arguments, says)


@pytest.mark.parametrize(("changes", "says"), SWEEP_FILES, ids=[says[0][:60] for _, says in SWEEP_FILES])
@pytest.mark.parametrize("arguments", [[], ["--dry-run"]], ids=["run", "dry"])
def test_a_bad_sweep_file(commands, tmp_path, changes, says, arguments):
    whole = isinstance(changes, bytes)
    content = changes if whole else yaml.safe_dump(GRID | changes, sort_keys=False).encode()
    (tmp_path / "sweep.yaml").write_bytes(content)
    _check(commands, tmp_path, "eanet.sweep", ["sweep.yaml", *arguments], says)


@pytest.mark.parametrize(("program", "arguments", "says"), OTHERS, ids=_ids(OTHERS))
def test_a_bad_command_line_of_another_program(commands, place, program, arguments, says):
    _check(commands, place, program, arguments, says)


def test_a_sweep_has_no_place_for_its_runs(commands, tmp_path):
    (tmp_path / "runs").touch()
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(GRID))
    _check(commands, tmp_path, "eanet.sweep", ["good.yaml"], ["runs/good", "is a file", "accepted"])


def test_the_table_is_long_enough_and_its_files_are_right_elsewhere(commands, place):
    """What is refused above is refused for the reason that is named: without it the same commands are taken."""
    assert len(FIELDS) + len(TOGETHER) + len(MAIN) + len(SWEEP_FILES) + len(OTHERS) >= 100
    dry = commands.run("eanet.sweep", ["good.yaml", "--dry-run"], place)
    assert (dry.code, dry.stderr) == (0, "") and "2 runs" in dry.stdout
    for program, arguments in (("main.py", ["--help"]), ("eanet.evaluate", ["--help"]), ("eanet.cost", [DIGITS])):
        done = commands.run(program, arguments, place)
        assert (done.code, done.stderr) == (0, "") and done.stdout


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["main.py", DIGITS, "--config.model.patch_size=16", "--workdir=new"], "config.model.patch_size=16"),
        (["-m", "eanet.sweep", "good.yaml", "--jobs=0"], "--jobs=0"),
        (["-m", "eanet.evaluate", "--workdir=file"], "--workdir=file"),
        (["-m", "eanet.compare", "runs", "--out=file"], "--out=file"),
    ],
)
def test_a_fresh_process_is_no_slower_and_says_the_same(place, command, says):
    before, started = snapshot(place), time.perf_counter()
    command = [str(ROOT / part) if part == "main.py" else part for part in command]
    own = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], cwd=place, env=own, capture_output=True, text=True, timeout=60)
    assert time.perf_counter() - started < _SECONDS
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and says in done.stderr
    assert snapshot(place) == before
