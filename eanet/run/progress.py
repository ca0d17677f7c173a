"""Progress of a run: a bar on a terminal; elsewhere plain lines, one an epoch and at least one a minute."""

import datetime
import sys
import time

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_BAR_WIDTH, _TIME_WIDTH = 6, 9  # of the bar and of the time left, with the spaces about it
_SILENCE = 60.0  # seconds without a line, off a terminal
_ESTIMATE = 5.0  # seconds of training from which the rest is estimated
_LEAST_IMPORTANT = ("step", "speed", "accuracy", "loss")  # left out in this order where the terminal is narrow


class RunProgress:
    """Show epoch, step, loss, accuracy, images/s and time left; a context manager.

    On a terminal that is too narrow for all of it, the less important parts are left out. Off a terminal it says how
    long compiling took, what an epoch and the rest of the run will take if that is more than a minute, and a line for
    each epoch, or each minute.
    """

    def __init__(self, epochs: int, steps_per_epoch: int, step: int, show: bool = True):
        self._validation = ""  # stays on the bar through the next epoch
        self._epochs, self._steps_per_epoch, self._show = epochs, steps_per_epoch, show
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=_BAR_WIDTH),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            disable=not (show and sys.stdout.isatty()),
        )
        self._total = epochs * steps_per_epoch
        self._said = time.monotonic()  # when the last line was printed
        self._first: tuple[int, float] | None = None  # step and time after the first call, which may warm up
        self._estimated = False
        self._task = self._bar.add_task(
            "", total=self._total, completed=step, epoch=self._epoch(step), text="compiling"
        )

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def _epoch(self, step: int) -> str:
        return f"{max(0, step - 1) // self._steps_per_epoch + 1}/{self._epochs}"

    def compiled(self, seconds: float) -> None:
        """Say how long compiling took, if there is no bar that has shown it."""
        if self._bar.disable:
            self.say(f"Compiled in {seconds:.0f} s")

    def update(self, step: int, row: dict[str, float], whose: str = "") -> None:
        """Show a row of metrics and whose they are; off a terminal one that ends an epoch, or the first in a minute."""
        loss, accuracy, speed = row["train/loss"], row["train/accuracy"], f"{row['train/images_per_second']:.0f}"
        if "val/loss" in row:
            self._validation = f"val {row['val/accuracy']:.1%}"
        if self._bar.disable:
            left = self._time_left(step)
            validation, rest = "", f"  {duration(left)} left" if left is not None else ""
            if "val/loss" in row:
                validation, rest = f"  val loss {row['val/loss']:.4f}  val accuracy {row['val/accuracy']:.2%}", ""
            if validation or time.monotonic() - self._said >= _SILENCE:
                line = f"loss {loss:.4f}  accuracy {accuracy:.2%}{validation}  {speed} images/s{rest}"
                line = f"{whose}: {line}" if whose else line
                self.say(f"epoch {self._epoch(step)}  step {step}  {line}")
        parts = {
            "loss": f"loss {loss:.3f}",
            "accuracy": f"acc {accuracy:.1%}",
            "validation": self._validation,
            "whose": f"({whose})" if whose else "",
            "speed": f"{speed} img/s",
            "step": f"{step}/{self._total}",
        }
        epoch = self._epoch(step)
        room = self._bar.console.width - len(f"epoch {epoch} ") - (_BAR_WIDTH + 1) - _TIME_WIDTH
        self._bar.update(self._task, completed=step, epoch=epoch, text=_fitted(parts, room))

    def _time_left(self, step: int) -> float | None:
        """Return about how many seconds are left, and say so once; None as long as that cannot be known."""
        now = time.monotonic()
        if self._first is None:
            self._first = step, now
        first, started = self._first
        if step == first or now - started < _ESTIMATE:
            return None
        per_step = (now - started) / (step - first)
        left = per_step * (self._total - step)
        if not self._estimated and left > _SILENCE:
            self.say(f"About {duration(per_step * self._steps_per_epoch)} an epoch, {duration(left)} to the end")
        self._estimated = True
        return left

    def say(self, line: str) -> None:
        """Print a line above the bar, if there is anything in it."""
        if line and self._show:
            self._said = time.monotonic()
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds, e.g. 1:02:03."""
    return str(datetime.timedelta(seconds=round(seconds)))


def _fitted(parts: dict[str, str], room: int) -> str:
    """Join parts of a line with spaces, without the less important ones if there is no room for them."""
    text = " ".join(filter(None, parts.values()))
    for name in _LEAST_IMPORTANT:
        if len(text) > room:
            parts = {other: part for other, part in parts.items() if other != name}
            text = " ".join(filter(None, parts.values()))
    return text
