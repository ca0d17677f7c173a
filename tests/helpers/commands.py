"""Command lines as a person types them: called in this process, in milliseconds, or run in one of their own."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator

import jax
import pytest
import sklearn.datasets  # noqa: F401, as it sets variables of the environment once
from absl import flags
from absl.testing import flagsaver

import eanet.compare.__main__
import eanet.cost
import eanet.dashboard
import eanet.data.__main__
import eanet.evaluate
import eanet.export
import eanet.inspect.__main__
import eanet.plan
import eanet.predict
import eanet.sweep.__main__
from eanet import cli

ROOT = pathlib.Path(__file__).parents[2]
_ENTRIES = {
    "eanet.sweep": eanet.sweep.__main__.main,
    "eanet.evaluate": eanet.evaluate.main,
    "eanet.compare": eanet.compare.__main__.main,
    "eanet.cost": eanet.cost.main,
    "eanet.data": eanet.data.__main__.main,
    "eanet.plan": eanet.plan.main,
    "eanet.predict": eanet.predict.main,
    "eanet.export": eanet.export.main,
    "eanet.inspect": eanet.inspect.__main__.main,
    "eanet.dashboard": eanet.dashboard.main,
}
# A proxy that refuses stands for a network that is not there.
_NO_NETWORK = {"https_proxy": "http://127.0.0.1:9"}
_NOT_SHOWN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # by Python's own filters


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command has left."""

    code: int
    stdout: str
    stderr: str


def run_here(program: str, arguments: list[str], directory: pathlib.Path, capture: pytest.CaptureFixture) -> Done:
    """Call main.py, or a module of this project, as its last lines do, but without its handlers of signals.

    Warnings and what is logged are printed, as in a process of its own.
    """
    with _own_state(program, arguments, directory) as warned:
        capture.readouterr()
        handler = logging.StreamHandler()
        handler.setLevel(logging.WARNING)
        logging.getLogger().addHandler(handler)
        try:
            code = cli.run(_entry(program))
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            logging.getLogger().removeHandler(handler)
    for warning in warned:
        if not issubclass(warning.category, _NOT_SHOWN):
            print(warning, file=sys.stderr)
    return Done(code, *capture.readouterr())


def run_alone(program: str, arguments: list[str], directory: pathlib.Path) -> Done:
    """Run the same command in a process of its own."""
    start = [str(ROOT / program)] if program.endswith(".py") else ["-m", program]
    own = os.environ | _NO_NETWORK | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *start, *arguments], cwd=directory, env=own, capture_output=True, text=True, timeout=180
    )
    return Done(done.returncode, done.stdout, done.stderr)


def _entry(program: str) -> Callable[[], None]:
    if program in _ENTRIES:
        return _ENTRIES[program]
    main = runpy.run_path(str(ROOT / program))["main"]  # afresh, as its flags are defined where it is loaded
    return lambda: main(cli.parse_flags(sys.argv))


@contextlib.contextmanager
def _own_state(program: str, arguments: list[str], directory: pathlib.Path) -> Iterator[list]:
    """Set what a process has of its own, and restore it; gives the warnings meanwhile."""
    settings, level = jax.config.values, logging.getLogger("absl").level
    with (
        pytest.MonkeyPatch.context() as patch,
        flagsaver.flagsaver(),
        warnings.catch_warnings(action="always", record=True) as warned,
    ):
        patch.chdir(directory)
        patch.setattr(sys, "argv", [program, *arguments])
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.delitem(sys.modules, "config_config", raising=False)  # as which ml_collections loads every file
        for name, value in _NO_NETWORK.items():
            patch.setenv(name, value)
        try:
            yield warned
        finally:
            flags.FLAGS.unparse_flags()
            logging.getLogger("absl").setLevel(level)
            now = jax.config.values
            for name in settings:
                if now[name] != settings[name]:
                    jax.config.update(name, settings[name])


def snapshot(directory: pathlib.Path) -> dict[str, bytes | None]:
    """Return everything below a directory with its bytes; None for directories."""
    found = {}
    for folder, folders, files in os.walk(directory):  # a few times faster than rglob
        found |= {os.path.join(folder, name): None for name in folders}
        found |= {path: pathlib.Path(path).read_bytes() for path in (os.path.join(folder, name) for name in files)}
    return found
