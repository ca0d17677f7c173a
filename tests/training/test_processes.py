"""Several processes of one run, real ones on the loopback interface: training, losing one, going on, stopping."""

import shutil
import socket
import time

import jax
import numpy as np
import pytest

from eanet.errors import UserError
from eanet.training import processes
from helpers import runs

_RUN = (*runs.TOY, "--config.train.epochs=40", "--config.checkpoint.every_epochs=2")


# Runs main.py with a fault in the second epoch.
_FAULTY = """
import runpy, sys
from eanet import train
def fail(self, epoch, *rest):
    raise RuntimeError("a fault of this process alone")
train.Run._validate = fail
sys.argv[0] = "main.py"
runpy.run_path("main.py", run_name="__main__")
"""


def _start_two(*arguments, programs=(("main.py",), ("main.py",))):
    """Start the two processes of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        runs.start(
            *arguments, program=program, JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(i)
        )
        for i, program in enumerate(programs)
    ]


def _end(group, seconds=180):
    """Wait for both; give their exit codes and what they printed. None is left behind."""
    limit = time.monotonic() + seconds
    try:
        texts = [process.communicate(timeout=limit - time.monotonic())[0] for process in group]
    finally:
        for process in group:
            process.kill()
    return [process.returncode for process in group], texts


def _assert_close(ours, theirs, arguments):
    """Equal to 1e-5, in every row and in each test image's loss: the sums over a batch are in another order.

    Not in every parameter: where the true gradient is 0, as of a bias before a softmax, Adam makes steps of the noise.
    """
    ours_rows, theirs_rows = runs.rows(ours), runs.rows(theirs)
    assert len(ours_rows) == len(theirs_rows) == 40
    for a, b in zip(ours_rows, theirs_rows, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5, atol=1e-5)
    with np.load(ours / "predictions.npz") as a, np.load(theirs / "predictions.npz") as b:
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5, atol=1e-5)


@pytest.mark.system
@pytest.mark.parametrize("seeds", [1, 2])
def test_two_processes_stream_their_own_parts(tmp_path, seeds):
    """One seed is split over the processes by its batch; two seeds have a process each."""
    arguments = (*runs.TOY, f"--config.num_seeds={seeds}", "--config.train.epochs=4")
    code, text = runs.complete(*arguments, f"--workdir={tmp_path / 'one'}")
    assert code == 0, text
    codes, texts = _end(_start_two(*arguments, "--config.data.streaming=always", f"--workdir={tmp_path / 'two'}"))
    assert codes == [0, 0], texts
    assert [text.count("Streaming the images from the host") for text in texts] == [1, 0]
    for ours, theirs in zip(runs.rows(tmp_path / "two"), runs.rows(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)


@pytest.mark.system
@pytest.mark.parametrize(("seeds", "lost"), [(1, 1), (2, 0)])
def test_two_processes_lose_one_are_stopped_and_end_as_one_process_does(tmp_path, seeds, lost):
    """One seed is split over the processes by its batch; two seeds have a process each."""
    arguments = (*_RUN, f"--config.num_seeds={seeds}")
    code, text = runs.complete(*arguments, f"--workdir={tmp_path / 'one'}")
    assert code == 0, text
    workdir = tmp_path / "two"
    own = (*arguments, f"--workdir={workdir}")

    group = _start_two(*own)
    assert runs.wait_until(lambda: (workdir / "checkpoints" / "8").exists(), group[0])
    group[lost].kill()
    codes, texts = _end(group)
    assert codes[lost] == -9 and "Traceback" not in texts[1 - lost]
    if codes[1 - lost] == -6:  # it was not in an exchange but waited for the other's part of a checkpoint
        assert "Terminating process because" in texts[1 - lost] and "another task died" in texts[1 - lost]
    else:
        assert codes[1 - lost] == 1, texts
        (error,) = [line for line in texts[1 - lost].splitlines() if line.startswith("error: ")]
        if "a checkpoint cannot be written" in error:  # it was exchanging what the checkpoint consists of
            assert "Connection reset by peer" in error and "the same command resumes from there" in error
        else:
            assert f"process {1 - lost} of 2 has lost another one" in error and "with the same command" in error

    known = runs.count_rows(workdir)
    shutil.copytree(workdir / "checkpoints" / "8", workdir / "checkpoints" / "999")  # a newer one that is damaged
    for file in (workdir / "checkpoints" / "999" / "state").glob("ocdbt.process_1/d/*" if seeds > 1 else "d/*"):
        file.write_bytes(file.read_bytes()[:10])
    group = _start_two(*own)
    assert runs.wait_until(lambda: runs.count_rows(workdir) >= known + 2, group[0])
    group[1].terminate()  # the other one hears of it at the end of the call
    codes, texts = _end(group)
    assert codes == [143, 143], texts
    assert "Going on from step" in texts[0] and "SIGTERM at step" in texts[0] and "saved" in texts[0]
    assert texts[0].count("checkpoint 999 is damaged and moved to") == 1 and "damaged" not in texts[1]

    codes, texts = _end(_start_two(*own), 300)
    assert codes == [0, 0], texts
    assert [text.count("Going on from step") for text in texts] == [1, 0]
    assert [text.count("Test: ") for text in texts] == [1, 0]
    _assert_close(workdir, tmp_path / "one", arguments)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (jax.errors.JaxRuntimeError("UNAVAILABLE: Failed to send RPC to coordination service."), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), False),
        (ValueError("[external/gloo/pair.cc:547] Read error [127.0.0.1]:1: Connection reset by peer"), True),
        (ValueError("another fault"), False),
        (UserError("a checkpoint cannot be written: Connection reset by peer"), False),
    ],
)
def test_a_lost_process_is_told_from_other_faults(monkeypatch, error, lost):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    said = processes.explain(error)
    assert (said is not None) == lost and (not lost or "process 0 of 2 has lost another one" in str(said))
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    assert processes.explain(error) is None


@pytest.mark.system
def test_a_fault_in_one_process_ends_the_other(tmp_path):
    group = _start_two(*_RUN, f"--workdir={tmp_path / 'run'}", programs=(("main.py",), ("-c", _FAULTY)))
    assert runs.wait_until(lambda: (tmp_path / "run" / "environment.json").exists(), group[0])
    codes, texts = _end(group, 300)  # a minute, and the time to compile
    assert codes[1] == 1 and "RuntimeError: a fault of this process alone" in texts[1]
    assert codes[0] in (1, -6), texts
    assert "has lost another one" in texts[0] or "another task died" in texts[0]


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "JAX_NUM_PROCESSES is missing; accepted: a whole number from 1"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES='two'; accepted"),
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID is missing; accepted: a whole number from 0 to 1"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID='2'; accepted: a whole number from 0 to 1"),
    ],
)
def test_an_incomplete_description_is_one_line(monkeypatch, environment, says):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        processes.join()


@pytest.mark.system
def test_no_cluster_where_one_is_looked_for_is_one_line(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "auto")
    with pytest.raises(UserError, match="the processes of this run do not find one another") as stop:
        processes.join()
    assert stop.value.exit_code == 1


def test_one_process_agrees_with_itself():
    assert processes.agree_on_pace_and_signal(2.5, 15) == (2.5, 15)
