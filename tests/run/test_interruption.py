"""Signals: the first one asks, the second one ends; while there is nothing to save, the first one ends."""

import signal
import subprocess
import sys
import time

import pytest

from helpers import runs

pytestmark = pytest.mark.system

_PROGRAM = """
import sys, time
from eanet.run.interruption import Interruption
with Interruption(may_exit=sys.argv[1] != "in a notebook") as interruption:
    interruption.at_once = sys.argv[1] != "at the end of a call"
    told = False
    print("listening", flush=True)
    while True:  # a call that takes for ever
        time.sleep(0.01)
        if interruption.received and not told:
            told = True
            print(interruption.received.name, interruption.exit_code, flush=True)
"""


@pytest.fixture
def start(request):
    started = []

    def start(when, program=_PROGRAM, handler=signal.SIG_DFL):
        def inherit():  # whatever these tests were started with
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, handler)

        command = [sys.executable, "-c", program, when]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=inherit)
        started.append(process)
        assert process.stdout.readline() == "listening\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_the_first_signal_asks_and_the_second_ends_at_once(start, number, code):
    process = start("at the end of a call")
    process.send_signal(number)
    assert process.stdout.readline() == f"{number.name} {code}\n"
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(30) == code
    assert process.stderr.read() == f"{number.name}: stopped at once.\n"


def test_a_shells_background_ignores_ctrl_c_and_a_run_does_not(start):
    process = start("at the end of a call", handler=signal.SIG_IGN)
    process.send_signal(signal.SIGHUP)  # which nohup has ignored, and so it stays
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "SIGINT 130\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130


_COMPILED = """
import jax
from eanet.run.interruption import Interruption
with Interruption():
    call = jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda i, x: x + jax.numpy.sin(x * i), 1.0)).lower(1).compile()
    print("listening", flush=True)
    call(2_000_000_000).block_until_ready()
"""


def test_the_second_signal_ends_a_compiled_call_too(start):
    """In which Python hears of nothing."""
    process = start("at the end of a call", _COMPILED)
    time.sleep(0.5)
    process.terminate()
    time.sleep(0.5)
    assert process.poll() is None
    process.terminate()
    assert process.wait(30) == 143


def test_while_there_is_nothing_to_save_the_first_one_ends(start):
    process = start("at once")
    process.terminate()
    assert process.wait(30) == 143
    assert process.stderr.read() == "SIGTERM: stopped; there was nothing to save.\n"


def test_who_does_not_own_the_process_cannot_have_it_ended(start):
    process = start("in a notebook")
    process.terminate()
    assert process.stdout.readline() == "SIGTERM 143\n"
    assert process.poll() is None


# Long enough not to be over before the last moment, should this start be faster than the one that was timed.
_START = (*runs.TOY, "--config.train.epochs=10", "--config.train.steps_per_call=1")
_MOMENTS = 10


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    """Start runs that find nothing compiled, each like the one that this one has timed and finished."""
    scratch = tmp_path_factory.mktemp("cold")

    def launch(name, seeds=1):
        caches = {"EANET_CACHE_DIR": str(scratch / f"cache-{name}")}
        workdir = scratch / name
        return workdir, runs.start(*_START, f"--config.num_seeds={seeds}", f"--workdir={workdir}", **caches)

    started = time.monotonic()
    workdir, process = launch("undisturbed")
    runs.wait_until(lambda: runs.count_rows(workdir) > 0, process)
    launch.seconds = time.monotonic() - started
    runs.end(process)
    return launch


def _stop_at(cold, moment, number, seeds):
    """Send a signal at a moment of a cold start and look at how it ends."""
    workdir, process = cold(f"{moment}-{int(number)}-{seeds}", seeds)
    time.sleep(cold.seconds * (moment + 0.5) / _MOMENTS)
    process.send_signal(number)
    sent = time.monotonic()
    said = runs.end(process, 60)
    assert process.returncode == 128 + number, said
    assert time.monotonic() - sent < 30, said
    about = [line for line in said.splitlines() if number.name in line]
    assert len(about) == 1 and "Traceback" not in said and "Fatal" not in said and "Exception" not in said, said
    assert not (workdir / "results.json").exists()
    return workdir


@pytest.mark.parametrize("moment", range(_MOMENTS))
def test_a_signal_at_any_moment_of_a_cold_start_ends_with_its_code_and_one_line(cold, moment):
    """Compiling included, where an exception raised by a handler would be a segmentation fault."""
    _stop_at(cold, moment, (signal.SIGINT, signal.SIGTERM)[moment % 2], 1 + moment // 2 % 2)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", range(_MOMENTS))
def test_each_signal_at_each_moment_of_a_cold_start(cold, moment, number, seeds):
    _stop_at(cold, moment, number, seeds)


def test_a_run_that_was_stopped_at_its_start_runs(cold):
    workdir = _stop_at(cold, _MOMENTS // 2, signal.SIGTERM, 1)
    code, said = runs.complete(*_START, f"--workdir={workdir}")
    assert code == 0, said
    assert runs.rows(workdir) == runs.rows(workdir.with_name("undisturbed"))
