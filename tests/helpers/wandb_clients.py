"""Processes with W&B's real client that know the test's server only."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from helpers.tiny import SIZES, flags
from helpers.wandb_server import WandbServer

_ROOT = pathlib.Path(__file__).parents[2]
DIGITS = "--config=configs/digits.py"
# The compiled program depends on neither epochs nor seed: most runs find it in the cache.
_PLAIN = {"augment.rotation": 0, "augment.zoom": 0, "augment.contrast": 0, "optimizer.schedule": "constant"}
TOY = flags(SIZES | _PLAIN)
# `wandb agent` that looks after its children every second instead of every five.
_AGENT = (
    "from wandb import wandb_agent; from wandb.cli.cli import cli; "
    "assert wandb_agent.Agent.POLL_INTERVAL == 5; wandb_agent.Agent.POLL_INTERVAL = 1; cli()"
)
# What an agent tells its child.
AGENTS_CHILD = {
    "WANDB_SWEEP_ID": "sweep9",
    "WANDB_RUN_ID": "run9",
    "WANDB_PROJECT": "eanet-jax",
    "WANDB_ENTITY": "tester",
}


class Clients:
    """Processes in a directory of their own that know the test's server only; ended with the test, whatever happens."""

    def __init__(self, server: WandbServer, directory: pathlib.Path):
        self.directory = directory
        self._environment = server.environment(directory / "home") | {
            "PATH": os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]),  # agents' `python`
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # a toy compiles for longer than it trains
        }
        self._started = []
        for name in ("main.py", "configs", "eanet", "sweeps"):
            (directory / name).symlink_to(_ROOT / name)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        """Start Python with arguments; what it prints goes to a file, where no full pipe can stop it."""
        path = self.directory / f"output-{len(self._started)}.txt"
        command, own = [sys.executable, *arguments], self._environment | environment
        with path.open("w") as file:
            process = subprocess.Popen(
                command, cwd=self.directory, env=own, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._started.append((process, path))
        return process

    def output(self, process: subprocess.Popen, seconds: float = 200) -> str:
        """Wait for a process's end, and give what it has printed."""
        (path,) = (path for other, path in self._started if other is process)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{process.args} has not ended in {seconds} s:\n{path.read_text()}")
        return path.read_text()

    def wandb(self, *arguments: str) -> str:
        """Run the command line of W&B to its end."""
        process = self.start("-m", "wandb", *arguments)
        text = self.output(process)
        assert process.returncode == 0, text
        return text

    def agent(self, path: str, **environment: str) -> subprocess.Popen:
        return self.start("-c", _AGENT, "agent", path, **environment)

    def sweep(self, command: tuple[str, ...], **parameters: list) -> str:
        """Register a sweep file of the repository's form, with __ for a dot; gives what an agent is told."""
        settings = {"program": "main.py", "project": "eanet-jax", "method": "grid"}
        settings |= {"metric": {"name": "val/accuracy_best", "goal": "maximize"}}
        settings |= {"command": ["${env}", "${interpreter}", "${program}", *command, "${args}"]}
        settings |= {"parameters": {name.replace("__", "."): {"values": some} for name, some in parameters.items()}}
        file = self.directory / "sweep.yaml"
        file.write_text(yaml.safe_dump(settings))
        return registered(self.wandb("sweep", str(file)))

    def close(self) -> None:
        """End what still runs. An agent's first SIGINT is to wait for its children, the third to kill them."""
        for process, _ in self._started:
            for _ in range(3):
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    time.sleep(1)
            process.kill()
            process.wait()


def registered(text):
    """Find the path that `wandb sweep` prints for the agent."""
    return re.search(r"Run sweep agent with: wandb agent (\S+)", text)[1]
