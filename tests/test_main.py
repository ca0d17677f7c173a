"""The command line as a user meets it: in a process, with its exit code and what it prints."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from eanet import cli, train
from helpers.tiny import tiny_config

_ROOT = pathlib.Path(__file__).parent.parent
_DIGITS = "--config=configs/digits.py"


def _main(*arguments, timeout=300, **environment):
    command = [sys.executable, "main.py", *arguments]
    return subprocess.run(
        command, cwd=_ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=timeout
    )


@pytest.mark.system
def test_help_explains_itself():
    done = _main("--help")
    assert done.returncode == 0
    for text in ("--config=FILE", "--workdir=DIR", "--config.model.dim_coefficient", "double or tokens or slots"):
        assert text in done.stdout


@pytest.mark.system
def test_without_data_and_network_the_message_says_what_to_do(tmp_path):
    """The proxy stands for a network that refuses. Alone it takes a few seconds."""
    done = _main(
        "--config=configs/eanet.py", f"--config.data.dir={tmp_path}", https_proxy="http://127.0.0.1:9", timeout=60
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    for text in ("cifar100", str(tmp_path), "no connection", "--config.data.dir=DIR", "configs/digits.py"):
        assert text in done.stderr


def test_the_same_command_finds_its_run_again_and_another_does_not():
    names = [
        cli.default_workdir("configs/digits.py", tiny_config()),
        cli.default_workdir("some/where/digits.py", tiny_config()),
        cli.default_workdir("configs/digits.py", tiny_config(seed=1)),
        cli.default_workdir("configs/digits.py:small", tiny_config()),
    ]
    assert names[0] == names[1] and len(set(names)) == 3
    assert names[0].parent.name == "runs" and len(names[0].name) == len("digits-") + 8
    assert names[3].name.startswith("digits-small-")


def test_the_order_of_flags_does_not_matter():
    """W&B's agent passes a swept --config wherever its server puts it."""
    orders = [["--config=configs/vit.py:4x32", "--config.seed=1"], ["--config.seed=1", "--config=configs/vit.py:4x32"]]
    for arguments in orders:
        file, config = cli.read_config(arguments)
        assert (file, config.seed, config.model.head_dim) == ("configs/vit.py:4x32", 1, 32)


def test_a_run_in_a_sweep_has_a_directory_of_its_own(monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    names = set()
    for run in ("run1", "run2"):
        monkeypatch.setenv("WANDB_RUN_ID", run)
        names.add(cli.default_workdir("configs/digits.py", tiny_config()))
    assert len(names) == 2 and {name.parent for name in names} == {pathlib.Path("runs/sweep1")}


@pytest.mark.system
def test_a_run_from_the_command_line_and_its_evaluation(tmp_path):
    overrides = ["--config.train.epochs=1", "--config.model.depth=1", "--config.wandb.mode=disabled"]
    done = _main(_DIGITS, *overrides, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "epoch 1/1  step 18" in done.stdout and "Test: loss" in done.stdout
    assert json.loads((tmp_path / "environment.json").read_text())["command"].endswith(f"--workdir={tmp_path}")
    command = [sys.executable, "-m", "eanet.evaluate", f"--workdir={tmp_path}", "--split=test"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{json.loads((tmp_path / 'results.json').read_text())['test/accuracy']:.2%}" in done.stdout


@pytest.mark.system
def test_a_signal_from_outside_saves_and_exits_with_its_code(tmp_path):
    """A run long enough to be interrupted: after its first epoch it gets SIGTERM."""
    command = [sys.executable, "-u", "main.py", _DIGITS, "--config.wandb.mode=disabled", f"--workdir={tmp_path}"]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                break
        process.terminate()
        rest = process.stdout.read()
    assert process.returncode == 143
    assert "SIGTERM at step" in rest and "the same command resumes" in rest
    assert any((tmp_path / "checkpoints").iterdir()) and not (tmp_path / "results.json").exists()


@pytest.mark.system
@pytest.mark.parametrize("name", sorted(path.stem for path in (_ROOT / "configs").glob("[!_]*.py")))
def test_every_configuration_trains_two_steps(name, tmp_path, tfds_dir):
    import importlib

    config = importlib.import_module(f"configs.{name}").get_config()
    config.data.train_limit, config.train.batch_size, config.train.epochs = 12, 8, 1
    config.model.depth, config.model.dim, config.model.num_heads = 1, 16, 4
    config.wandb.mode = "disabled"
    if config.data.name != "digits":
        config.data.dir = str(tfds_dir)
    results = train.train(config, tmp_path)
    assert results["steps"] == 2 and results["test/loss"] > 0
