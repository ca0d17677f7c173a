"""SIGTERM, SIGINT and SIGHUP as a polite request: go on to the end of a call, then stop.

This file imports nothing heavy: main.py listens before it imports what takes seconds.
"""

import contextlib
import os
import signal
import socket
import threading
import types

_SHOW_CURSOR = "\x1b[?25h"  # which a progress bar has hidden


class Interruption:
    """Note the first SIGTERM, SIGINT or SIGHUP in `received`; end the process at the second. A context manager.

    While `at_once` is set, because there is nothing to save, the first one ends the process, with one line. Only the
    owner of the process may set it (`may_exit`); in a notebook, for example, it stays off.

    No exception is raised: an exception in a signal handler surfaces in whatever Python code is running, possibly in a
    callback of XLA's compiler, where it causes a segmentation fault. A thread receives the signals, because Python runs
    handlers only between bytecode instructions, and a compilation or a compiled call is a single one. A process that
    compiles nothing (`compiled_calls=False`) needs no thread; there, the second signal has its default effect.
    """

    # SIGHUP: its terminal is gone; Windows has none.
    _SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))

    def __init__(self, may_exit: bool = False, compiled_calls: bool = True) -> None:
        self._may_exit, self._compiled_calls = may_exit, compiled_calls
        self._at_once = may_exit
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    @property
    def at_once(self) -> bool:
        """Whether the first signal ends the process."""
        return self._at_once

    @at_once.setter
    def at_once(self, value: bool) -> None:
        self._at_once = value and self._may_exit

    def __enter__(self) -> "Interruption":
        # SIGHUP stays ignored under nohup; SIGINT stops a run even if a shell's background job ignored it.
        numbers = [n for n in self._SIGNALS if n.name != "SIGHUP" or signal.getsignal(n) != signal.SIG_IGN]
        if self._compiled_calls:
            ours, self._bell = socket.socketpair()
            self._bell.setblocking(False)
            self._bell_before = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._listen, args=(ours, set(numbers)), daemon=True).start()
        self._before = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
        if self._compiled_calls:
            signal.set_wakeup_fd(self._bell_before)
            self._bell.close()  # which ends the thread

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        if self._compiled_calls:  # the thread has heard of it, and sooner
            return
        self.received = signal.Signals(number)
        for other in self._before:  # to their defaults, as what was there before may have been to ignore them
            signal.signal(other, signal.default_int_handler if other == signal.SIGINT else signal.SIG_DFL)

    def _listen(self, bell: socket.socket, numbers: set[int]) -> None:
        with bell:
            while byte := bell.recv(1):
                if byte[0] not in numbers:
                    continue
                number = signal.Signals(byte[0])
                if self.received:
                    _leave(number, "stopped at once")
                if self.at_once:
                    _leave(number, "stopped; there was nothing to save")
                self.received = number

    @property
    def exit_code(self) -> int:
        """The shell's convention: 128 + the signal's number."""
        return 128 + (self.received or 0)


def _leave(number: signal.Signals, what: str) -> None:
    """End the process, whatever its other threads are in the midst of."""
    with contextlib.suppress(OSError):  # nobody may be left to read it
        line = f"{number.name}: {what}.\n"
        os.write(2, (_SHOW_CURSOR + "\r" + line if os.isatty(2) else line).encode())
    os._exit(128 + number)
