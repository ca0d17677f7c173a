"""SIGTERM, SIGINT and SIGHUP as a polite request: go on to the end of a call, then stop."""

import os
import signal
import socket
import threading
import types


class Interruption:
    """Catch the first SIGTERM, SIGINT or SIGHUP of a run; a second one ends the process at once. A context manager.

    Where `at_once` is set, because there is nothing to save, the first one raises SystemExit, so that what is open
    is closed. Python hears of a signal between two of its own steps only, and a compiled call is one: there the second
    one is waited for in a thread.
    """

    # SIGHUP: its terminal is gone; Windows has none.
    _SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))

    def __init__(self, compiled_calls: bool = True) -> None:
        self.at_once = False
        self._compiled_calls = compiled_calls
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interruption":
        # nohup has SIGHUP ignored, and so it stays; SIGINT, which a shell's background has ignored, stops a run.
        numbers = [n for n in self._SIGNALS if n.name != "SIGHUP" or signal.getsignal(n) != signal.SIG_IGN]
        if self._compiled_calls:
            ours, self._bell = socket.socketpair()
            self._bell.setblocking(False)
            self._bell_before = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=_end_at_the_second, args=(ours, set(numbers)), daemon=True).start()
        self._before = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
        if self._compiled_calls:
            signal.set_wakeup_fd(self._bell_before)
            self._bell.close()  # which ends the thread

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        self.received = signal.Signals(number)
        for other in self._before:  # to their defaults, as what was there before may have been to ignore them
            signal.signal(other, signal.default_int_handler if other == signal.SIGINT else signal.SIG_DFL)
        if self.at_once:
            raise SystemExit(self.exit_code)

    @property
    def exit_code(self) -> int:
        """The shell's convention: 128 + the signal's number."""
        return 128 + (self.received or 0)


def _end_at_the_second(bell: socket.socket, numbers: set[int]) -> None:
    heard = 0
    with bell:
        while number := bell.recv(1):
            heard += number[0] in numbers
            if heard == 2:
                os._exit(128 + number[0])
