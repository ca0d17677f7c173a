"""Checkpoints of a run with Orbax: the training state, and the few host values that go with it.

Each carries a checksum of all that is in it. One that is damaged is never used: the one before it is, and the damaged
one is moved aside.
"""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import itertools
import json
import logging
import pathlib
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from eanet.config import stored
from eanet.errors import UserError
from eanet.training import processes
from eanet.training.step import TrainState


@dataclasses.dataclass(frozen=True)
class _Damaged:
    """A checkpoint that cannot be used, and why."""

    step: int
    why: str


class Checkpoints:
    """Save and restore a run's state, asynchronously; Orbax renames a checkpoint into place when it is whole."""

    def __init__(self, directory: pathlib.Path, keep: int = 1, read_only: bool = False):
        for name in ("absl", "asyncio"):  # Orbax and its threads print pages about what they raise as well
            logging.getLogger(name).setLevel(logging.CRITICAL)
        _silence_echoes()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            read_only=read_only,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=not read_only,
        )
        self._directory, self._read_only = directory, read_only
        try:
            self._manager = ocp.CheckpointManager(directory, options=options)
        except OSError as error:
            raise UserError(f"{directory} cannot be used: {error.strerror or error}", exit_code=1) from error

    def save(self, state: TrainState, step: int, config: dict[str, Any], extra: dict[str, Any]) -> None:
        """Save the state with JSON-able values beside it; returns once the state may be donated again.

        Raises UserError if this or the last save cannot be written.
        """
        if step in self._manager.all_steps():
            return
        values = {"config": config, "extra": extra, "state": checksum_of_arrays(state)}
        values = {"values": values, "sha256": _checksum(values)}
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), extra=ocp.args.JsonSave(values))
        try:
            self._manager.save(step, args=args, force=True)
        except Exception as error:  # of the file system, as Orbax or TensorStore put it
            raise self._cannot_be_written(error) from error

    def wait(self) -> None:
        """Return once everything saved is on disk. Raises UserError if that fails."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._cannot_be_written(error) from error

    def check(self) -> None:
        """Raise UserError if a save has failed meanwhile; does not wait for one in progress."""
        if not self._manager.is_saving_in_progress():
            self.wait()  # Orbax gives an error to who waits, and only to the first

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints, in their order."""
        return sorted(self._manager.all_steps())

    def _cannot_be_written(self, error: Exception) -> UserError:
        # Not Orbax's own list, which counts what it meant to write and to delete.
        kept = (
            ", ".join(sorted((path.name for path in self._directory.iterdir() if path.name.isdecimal()), key=int))
            or "none"
        )
        return processes.explain(error) or UserError(
            f"a checkpoint cannot be written in {self._directory}: {_reason(error)}; whole are those of the steps: "
            f"{kept}; the same command resumes from there",
            exit_code=1,
        )

    def restore(
        self, like: TrainState, config: dict[str, Any], only: int | None = None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Restore the newest whole checkpoint into the shapes and shardings of `like`; None if there is none.

        only is the step of the one to restore, if not the newest.

        Damaged ones that are newer are moved aside, with a message. Raises UserError, and changes nothing, if all
        are damaged or one is of another configuration.
        """
        if jax.process_count() == 1:
            found = self._newest_whole(lambda step: self._read(self._manager, step, like, config), only)
            return found and found[1]
        # Restoring in all processes is a collective operation, which would hang if only one of them found a damaged
        # file. So the first process reads everything beforehand.
        step = -1
        if jax.process_index() == 0:
            with self._of_this_process_alone() as manager:
                found = self._newest_whole(lambda step: self._read(manager, step, _on_one_device(like), config), only)
            step = found[0] if found else -1
        step = processes.broadcast_from_first(step)
        self._manager.reload()
        return None if step < 0 else self._read(self._manager, step, like, config)

    def _newest_whole(self, read: Callable[[int], Any], only: int | None) -> tuple[int, Any] | None:
        """Return the step and the contents of the newest checkpoint that can be read, and move those after it aside."""
        damaged: list[_Damaged] = []
        for step in reversed(self.steps() if only is None else [only]):
            try:
                contents = read(step)
            except UserError:
                raise
            except Exception as error:  # Orbax, TensorStore and JSON raise many kinds for a damaged file
                damaged.append(_Damaged(step, _reason(error)))
                continue
            self._move_aside(damaged)
            return step, contents
        if damaged:
            each = "; ".join(f"{checkpoint.step}: {checkpoint.why}" for checkpoint in damaged)
            advice = "" if self._read_only else "; nothing was changed; to train anew choose another --workdir"
            raise UserError(f"no checkpoint in {self._directory} can be used ({each}){advice}", exit_code=1)
        return None

    @contextlib.contextmanager
    def _of_this_process_alone(self) -> Iterator[ocp.CheckpointManager]:
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="alone"
        )
        options = ocp.CheckpointManagerOptions(
            read_only=True, create=False, enable_async_checkpointing=False, multiprocessing_options=alone
        )
        with ocp.CheckpointManager(self._directory, options=options) as manager:
            yield manager

    def _read(
        self, manager: ocp.CheckpointManager, step: int, like: TrainState, config: dict[str, Any]
    ) -> tuple[TrainState, dict[str, Any]]:
        whole = manager.restore(step, args=ocp.args.Composite(extra=ocp.args.JsonRestore()))["extra"]
        values = whole["values"]
        if _checksum(values) != whole["sha256"]:
            raise ValueError("its values are not what was written")
        difference = stored.first_difference(config, values["config"])
        if difference:
            raise UserError(f"{self._directory} is of another run: {difference}; choose another --workdir")
        state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))["state"]
        if checksum_of_arrays(state) != values["state"]:
            raise ValueError("its arrays are not what was written")
        return state, values["extra"]

    def _move_aside(self, damaged: list[_Damaged]) -> None:
        """Move checkpoints out of the way of those to come, undeleted, and say so."""
        for checkpoint in damaged:
            place = self._directory.with_name(f"damaged-checkpoint-{checkpoint.step}")
            for number in itertools.count(2):
                if not place.exists():
                    break
                place = self._directory.with_name(f"damaged-checkpoint-{checkpoint.step}-{number}")
            what = "left out" if self._read_only else f"moved to {place}"
            print(f"warning: checkpoint {checkpoint.step} is damaged and {what}: {checkpoint.why}", file=sys.stderr)
            if not self._read_only:
                (self._directory / str(checkpoint.step)).rename(place)
        if damaged:
            self._manager.reload()

    def close(self) -> None:
        """Wait for the last save to be on disk. Raises UserError if that fails."""
        self.wait()
        try:
            self._manager.close()  # which writes and waits as well
        except Exception as error:
            raise self._cannot_be_written(error) from error


def _on_one_device(like: TrainState) -> TrainState:
    where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), like)


def _checksum(values: dict[str, Any]) -> str:
    """Return the SHA-256 of JSON-able values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def checksum_of_arrays(state: TrainState) -> str:
    """Return the SHA-256 of all arrays with their names, types and shapes; every process has the same."""
    digest = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        whole = x.is_fully_addressable or x.is_fully_replicated
        array = np.asarray(x if whole else multihost_utils.process_allgather(x, tiled=True))
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


@functools.cache  # once
def _silence_echoes() -> None:
    """Keep Python from printing pages about readers and writers that Orbax drops when one of them has failed.

    They are collected, or find their event loop closed, at any time before or after the error is raised here.
    """
    print_it = sys.unraisablehook

    def print_others(unraisable: Any) -> None:
        if not (inspect.iscoroutine(unraisable.object) or "Event loop is closed" in str(unraisable.exc_value)):
            print_it(unraisable)

    sys.unraisablehook = print_others
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def _reason(error: Exception) -> str:
    """Return what the system says, else the beginning of the message; TensorStore's are pages long."""
    text = str(error).strip() or type(error).__name__
    said = re.search(r"([^:]*) \[os_error_code", text)
    return said[1].strip() if said else textwrap.shorten(text.splitlines()[0], 200, placeholder=" …")
