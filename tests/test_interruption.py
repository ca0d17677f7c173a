"""Signals: the first one asks, the second one ends."""

import signal
import subprocess
import sys
import time

import pytest

_PROGRAM = """
import sys, time
from eanet.interruption import Interruption
with Interruption() as interruption:
    interruption.at_once = sys.argv[1] == "at once"
    print("listening", flush=True)
    while True:  # a call that takes for ever
        time.sleep(0.01)
        if interruption.received:
            print(interruption.received.name, interruption.exit_code, flush=True)
            interruption.received = None
"""


@pytest.fixture
def start(request):
    started = []

    def start(when, program=_PROGRAM, handler=signal.SIG_DFL):
        def inherit():  # whatever these tests were started with
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, handler)

        command = [sys.executable, "-c", program, when]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=inherit)
        started.append(process)
        assert process.stdout.readline() == "listening\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.stdout.close()
        process.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_the_first_signal_asks_and_the_second_ends_at_once(start, number, code):
    process = start("at the end of a call")
    process.send_signal(number)
    assert process.stdout.readline() == f"{number.name} {code}\n"
    assert process.poll() is None
    process.send_signal(number)
    # Python's own answer to Ctrl-C is an exception, to the others there is none.
    assert process.wait(10) in ((-signal.SIGINT, 1, 130) if number == signal.SIGINT else (-number,))


def test_a_shells_background_ignores_ctrl_c_and_a_run_does_not(start):
    process = start("at the end of a call", handler=signal.SIG_IGN)
    process.send_signal(signal.SIGHUP)  # which nohup has ignored, and so it stays
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "SIGINT 130\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) in (-signal.SIGINT, 1, 130)


_COMPILED = """
import jax
from eanet.interruption import Interruption
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
    assert process.wait(10) == 143


def test_where_there_is_nothing_to_save_the_first_one_ends(start):
    process = start("at once")
    process.terminate()
    assert process.wait(10) == 143
