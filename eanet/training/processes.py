"""The processes of a run: joining the others, agreeing with them, and leaving them when something is lost."""

import faulthandler
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from eanet.errors import UserError

# How long a silent process counts as alive. JAX's own limit, 100 s, is more than the minute within which the others
# of a run should have ended.
_HEARTBEAT_SECONDS = 30
# How long those that are done wait for the others: the first one may have an upload to finish.
_SHUTDOWN_SECONDS = 150
# How XLA's errors begin that have nothing to do with other processes.
_OWN_FAULTS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
# How a lost connection shows where another error, e.g. of an array's conversion, carries it.
_BY_GLOO = re.compile(r"gloo|connection (reset|closed) by peer", re.IGNORECASE)


def join() -> None:
    """Join the other processes of a run that a cluster or the environment describes; else do nothing.

    JAX detects Slurm, Open MPI and TPU slices; TPU slices outside Kubernetes need JAX_COORDINATOR_ADDRESS=auto.
    Elsewhere, every process needs JAX_COORDINATOR_ADDRESS=HOST:PORT of process 0, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID. Raises UserError if these are incomplete, or if the other processes do not join.
    """
    env = os.environ
    address = env.get("JAX_COORDINATOR_ADDRESS", "")
    if address == "auto":
        del env["JAX_COORDINATOR_ADDRESS"]  # JAX would take it for a host
    several = (
        address
        or env.get("SLURM_NTASKS", "1") != "1"
        or env.get("OMPI_COMM_WORLD_SIZE", "1") != "1"
        or "," in env.get("TPU_WORKER_HOSTNAMES", "")
    )
    if not several or jax.distributed.is_initialized():
        return
    own = {}
    if address not in ("", "auto"):
        count = _whole("JAX_NUM_PROCESSES", 1, 2**20)
        own = {"num_processes": count, "process_id": _whole("JAX_PROCESS_ID", 0, count - 1)}
    # Its handler of SIGTERM, which would only tell the other processes, is not ours: see eanet.run.interruption.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **own, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS, shutdown_timeout_seconds=_SHUTDOWN_SECONDS
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the processes of this run do not find one another: {_line(error)}", exit_code=1) from error
    faulthandler.disable()  # absl's, which adds pages to XLA's line about a process that is lost


def _whole(name: str, low: int, high: int) -> int:
    """Read an environment variable."""
    text = os.environ.get(name, "")
    if not text.isdecimal() or not low <= int(text) <= high:
        given = f"{name}={text!r}" if text else f"{name} is missing"
        raise UserError(f"JAX_COORDINATOR_ADDRESS is set and {given}; accepted: a whole number from {low} to {high}")
    return int(text)


def agree_on_pace_and_signal(pace: float, signal: int) -> tuple[float, int]:
    """Return the smallest pace and the highest number of a signal, 0 for none, that any process has brought."""
    if jax.process_count() == 1:
        return pace, signal
    brought = multihost_utils.process_allgather(np.array([pace, -signal], np.float32))
    least = brought.reshape(-1, 2).min(axis=0)
    return float(least[0]), -int(least[1])


def first_process_first(function: Callable[[], Any]) -> Any:
    """Call a function in the first process, and then in the others, which find what it has prepared."""
    if jax.process_index() == 0:
        result = function()
        wait_for_all("the first process is done")
        return result
    wait_for_all("the first process is done")
    return function()


def broadcast_from_first(number: int) -> int:
    """Return every process the first one's number."""
    return number if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def wait_for_all(purpose: str) -> None:
    """Return once every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(purpose)


def explain(error: Exception) -> UserError | None:
    """Return a UserError that explains a failed exchange between processes; None for any other error."""
    if jax.process_count() == 1 or isinstance(error, UserError):
        return None
    if not isinstance(error, jax.errors.JaxRuntimeError) and not _BY_GLOO.search(str(error)):
        return None
    if str(error).startswith(_OWN_FAULTS):
        return None
    return UserError(
        f"process {jax.process_index()} of {jax.process_count()} has lost another one ({_line(error)}); start all of "
        "them again with the same command, and the run resumes",
        exit_code=1,
    )


def leave(exit_code: int) -> None:
    """End this process at once if it is one of several: at a normal end it would wait for the others.

    It is for failures. The others hear of it by their next exchange with this one, or by its missing heartbeat.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
