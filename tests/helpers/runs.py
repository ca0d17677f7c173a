"""Runs as processes of their own: started, watched, killed, and compared."""

import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np

from eanet import cli
from eanet.data import datasets as data
from eanet.run.checkpoint import Checkpoints
from eanet.training import members, sharding
from eanet.training.trainer import Trainer
from helpers.tiny import SIZES, flags

ROOT = pathlib.Path(__file__).parents[2]
# Everything that a run has: four steps an epoch, the last of them on a smaller batch.
TOY = ("--config=configs/digits.py", *flags(SIZES | {"checkpoint.every_epochs": 1, "wandb.mode": "disabled"}))


def start(*arguments, program=("main.py",), **environment):
    """Start main.py, or a program around it; what it prints is in one pipe."""
    command = [sys.executable, *program, *arguments]
    env = os.environ | {"PYTHONUNBUFFERED": "1"} | environment
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def complete(*arguments, **environment):
    """Run main.py to its end; give its exit code and what it printed."""
    process = start(*arguments, **environment)
    text = end(process)
    return process.returncode, text


def end(process, seconds=480):
    """Wait for a process's end, and give what it printed; where it does not come, none is left behind."""
    try:
        return process.communicate(timeout=seconds)[0]
    finally:
        process.kill()


def wait_until(condition, process, seconds=300):
    """Wait for a condition that a running process brings about; give whether it came before the process's end."""
    limit = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return condition()
        assert time.monotonic() < limit, "the condition did not come"
        time.sleep(0.005)
    return True


def count_rows(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def rows(workdir, timings=False):
    """Read metrics, by default without the timings, which are no function of the configuration."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    left_out = () if timings else ("train/images_per_second",)
    return [{name: value for name, value in row.items() if name not in left_out} for row in found]


def state(workdir, arguments):
    """Read the newest checkpoint of a run of this command, as NumPy arrays."""
    _, config = cli.read_config(arguments)
    trainer = Trainer(
        config, data.load(config.data), sharding.make_mesh(len(members.members_from_config(config.to_dict())))
    )
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    found, _ = checkpoints.restore(trainer.shapes, config.to_dict())
    return jax.tree.map(np.asarray, found)


def assert_equal(ours, theirs, arguments):
    """Two finished runs of one command have the same bits: rows, parameters, predictions and results."""
    assert rows(ours) == rows(theirs)
    jax.tree.map(np.testing.assert_array_equal, state(ours, arguments), state(theirs, arguments))
    with np.load(ours / "predictions.npz") as a, np.load(theirs / "predictions.npz") as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])
    a, b = (json.loads((workdir / "results.json").read_text()) for workdir in (ours, theirs))
    for name in a.keys() | b.keys():
        if not name.startswith(("seconds_", "images_per_second")):
            assert a[name] == b[name], name
