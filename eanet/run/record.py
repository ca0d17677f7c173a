"""What a run is on disk: the files of its working directory, said once.

config.json                 the resolved configuration
environment.json            versions, devices, commit and command line of the newest start; earlier starts below it
data.json                   what the networks need to know of the data set: statistics, sizes, names
metrics.jsonl               an object a line: step, epoch, metrics
results.json                written once, when the run is finished
predictions.npz             of the finished run, an entry per test image; and the names of classes and superclasses
curves.png                  loss and accuracy over the epochs
checkpoints/                Orbax; see eanet.run.checkpoint
damaged-checkpoint-<step>/  moved aside, because it cannot be used
initial_weights.json        with config.init_from: which weights the newest start from step 0 began with
evaluation-<split>.json     what eanet.evaluate has found in the newest checkpoint
wandb.json, wandb/          with W&B: the id of its run, and its files
output.log                  of a run of eanet.sweep: what it has printed
.lock                       held by the process that works here; it stays, the lock goes with the process
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import filelock
import jax
import numpy as np

from eanet.config import stored
from eanet.errors import UserError

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets", "wandb")
# What numpy raises for a file that is cut short, overwritten, pickled, or a single array.
_DAMAGED = (OSError, ValueError, EOFError, TypeError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class Record:
    """The files of one run. Only the primary process writes; every file is whole or not there."""

    def __init__(self, workdir: str | pathlib.Path, primary: bool = True):
        self.workdir = pathlib.Path(workdir).absolute()
        self._primary = primary
        self._is_new = True  # until check has found a configuration
        # Not thread-local: whoever closes the record gives it back.
        # Not by the mere existence of a file, if a file system has no locks: that would outlive its process.
        lock = self.workdir / ".lock"
        self._lock = filelock.FileLock(lock, timeout=0, thread_local=False, fallback_to_soft=False)

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.workdir / "checkpoints"

    def has_checkpoint(self) -> bool:
        """Return whether a start would resume from a checkpoint."""
        return self.checkpoints.is_dir() and any(path.name.isdecimal() for path in self.checkpoints.iterdir())

    @property
    def curves(self) -> pathlib.Path:
        return self.workdir / "curves.png"

    def read(self, name: str) -> Any:
        """Read one of the JSON files; None if it does not exist."""
        path = self.workdir / name
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} cannot be read: {error}", exit_code=1) from error

    def read_note(self, name: str) -> dict[str, Any]:
        """Read a JSON file that a run can do without; empty if it does not exist or, with a warning, if damaged."""
        try:
            value = self.read(name)
        except UserError:
            value = ...
        if value is None or isinstance(value, dict):
            return value or {}
        if self._primary:
            print(f"warning: {self.workdir / name} is damaged and left out", file=sys.stderr)
        return {}

    def write(self, name: str, value: Any) -> None:
        """Write one of the JSON files under a temporary name, then rename."""
        if self._primary:
            self._write_whole(name, json.dumps(value, indent=2) + "\n")

    def check(self, config: dict[str, Any]) -> None:
        """Raise UserError if the directory is of another run or none. Changes nothing."""
        if self.workdir.exists() and not self.workdir.is_dir():
            raise UserError(f"--workdir={self.workdir} is a file; accepted: a directory, existing or new")
        recorded = self.read("config.json")
        self._is_new = recorded is None
        if self._is_new:
            return
        if not isinstance(recorded, dict):
            raise UserError(f"{self.workdir / 'config.json'} holds no configuration; choose another --workdir")
        try:
            difference = stored.first_difference(config, recorded)
        except UserError as error:
            raise UserError(f"{self.workdir / 'config.json'}: {error}; choose another --workdir") from error
        if difference:
            raise UserError(f"--workdir={self.workdir} holds another run: {difference}; choose another --workdir")

    def check_place(self) -> None:
        """Raise UserError if the directory cannot be written or is in use. Changes nothing but the lock."""
        existing = next(path for path in (self.workdir, *self.workdir.parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"--workdir={self.workdir} cannot be written: no right to write in {existing}")
        if (self.workdir / "config.json").exists():
            self._acquire()

    def open(self, config: dict[str, Any]) -> None:
        """Make the directory and take it for this process.

        Raises UserError if that is not possible or another process has been quicker.
        """
        if not self._primary:
            return
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--workdir={self.workdir} cannot be written: {error.strerror}") from error
        self._acquire()
        if self._is_new:  # as it was found; another process may have been here meanwhile
            self.check(config)

    def begin(self, config: dict[str, Any], step: int, rows: int, chosen: dict[str, Any] | None = None) -> None:
        """Note the configuration and the environment of this start, and drop the rows after a step.

        chosen is what the configuration leaves to the platform.
        Raises UserError if there are then fewer rows than at that step, and changes nothing.
        """
        if not self._primary:
            return
        kept = [row for row in self.rows() if row["step"] <= step]
        path = self.workdir / "metrics.jsonl"
        if len(kept) < rows:
            raise UserError(
                f"{path} has {len(kept)} rows up to step {step}, of which the checkpoint knows {rows}: rows have been "
                "lost; bring them back, or choose another --workdir",
                exit_code=1,
            )
        self.write("config.json", config)
        earlier = self.read_note("environment.json")
        starts = [earlier, *(earlier.pop("earlier_starts", None) or [])] if earlier else []
        self.write("environment.json", environment() | {"chosen": chosen or {}, "earlier_starts": starts})
        if path.exists():
            self._write_whole(path.name, "".join(json.dumps(row) + "\n" for row in kept))

    def close(self) -> None:
        """Let other processes have the directory."""
        self._lock.release(force=True)

    def _acquire(self) -> None:
        if not self._primary or self._lock.is_locked:
            return
        try:
            self._lock.acquire()
        except filelock.Timeout as error:  # before the next, as it is one of these
            raise UserError(
                f"--workdir={self.workdir} is in use by another process; wait for its end, or choose another --workdir",
                exit_code=1,
            ) from error
        except OSError as error:
            raise UserError(f"--workdir={self.workdir} cannot be written: {error.strerror}") from error

    @contextlib.contextmanager
    def _writing(self, path: pathlib.Path) -> Iterator[None]:
        """Turn what the file system refuses into one line."""
        try:
            yield
        except OSError as error:
            kept = "what was saved before is intact, and the same command resumes from there"
            raise UserError(f"{path} cannot be written: {error.strerror or error}; {kept}", exit_code=1) from error

    def rows(self) -> list[dict[str, Any]]:
        """Read the metrics; a last line that a crash cut short is left out."""
        path = self.workdir / "metrics.jsonl"
        try:
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            rows = [json.loads(line) for line in lines if line.endswith("\n")]
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} cannot be read: {error}", exit_code=1) from error
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict) or type(row.get("step")) is not int:
                raise UserError(f"{path}: line {number} holds other things than a run writes", exit_code=1)
        return rows

    def append(self, row: dict[str, Any]) -> None:
        """Add a row of metrics; it is on disk before the checkpoint that follows it."""
        if self._primary:
            path = self.workdir / "metrics.jsonl"
            new = not path.exists()
            with self._writing(path):
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                if new:
                    _sync(path.parent)

    def write_predictions(self, **arrays: np.ndarray) -> None:
        """Store arrays with an entry per test image."""
        if self._primary:
            path = self.workdir / "predictions.npz"
            with self._writing(path):
                partial = path.with_name(f".{path.name}")
                np.savez_compressed(partial, **arrays)
                _sync(partial)
                os.replace(partial, path)

    def write_curves(self, draw: Callable[[pathlib.Path], None]) -> None:
        """Let the picture of the curves be drawn."""
        if self._primary:
            with self._writing(self.curves):
                draw(self.curves)
                _sync(self.curves)

    def read_predictions(self) -> dict[str, np.ndarray]:
        """Read the arrays with an entry per test image."""
        path = self.workdir / "predictions.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except _DAMAGED as error:
            raise UserError(f"{path} cannot be read: {error}", exit_code=1) from error

    def _write_whole(self, name: str, text: str) -> None:
        path = self.workdir / name
        partial = path.with_name(f".{name}")
        with self._writing(path):
            with partial.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            _sync(path.parent)


def _sync(path: pathlib.Path) -> None:
    """Have a file, or a directory's list of names, on disk before anything that comes later."""
    if os.name == "nt":  # where directories cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def environment() -> dict[str, Any]:
    """Describe this start: when, with what, on what, from which commit."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([pathlib.Path(sys.executable).name, *sys.orig_argv[1:]]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "git": git_state(),
    }


def git_state() -> dict[str, Any]:
    """Return the commit of the code and whether its tree was clean; None if there is no repository."""
    root = pathlib.Path(__file__).parents[2]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "clean": None if changes is None else not changes}
