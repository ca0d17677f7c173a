"""SIGTERM and SIGINT as a polite request: go on to the end of a call, then stop."""

import signal
import types


class Interruption:
    """Catch the first SIGTERM or SIGINT of a run; a second one acts as if nobody listened. A context manager.

    Where `at_once` is set, because there is nothing to save, the first one raises SystemExit, so that what is open
    is closed.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.at_once = False
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._receive) for number in self._SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()
        if self.at_once:
            raise SystemExit(self.exit_code)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """The shell's convention: 128 + the signal's number."""
        return 128 + (self.received or 0)
