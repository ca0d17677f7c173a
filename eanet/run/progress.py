"""Progress of a run: a bar on a terminal, a plain line an epoch elsewhere."""

import sys

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_BAR_WIDTH, _TIME_WIDTH = 6, 9  # of the bar and of the time left, with the spaces about it
_LEAST_IMPORTANT = ("step", "speed", "accuracy", "loss")  # left out in this order where the terminal is narrow


class RunProgress:
    """Show epoch, step, loss, accuracy, images/s and time left; a context manager.

    On a terminal that is too narrow for all of it, the less important parts are left out.
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

    def update(self, step: int, row: dict[str, float], whose: str = "") -> None:
        """Show a row of metrics and whose they are; off a terminal only one that ends an epoch."""
        loss, accuracy, speed = row["train/loss"], row["train/accuracy"], f"{row['train/images_per_second']:.0f}"
        if "val/loss" in row:
            self._validation = f"val {row['val/accuracy']:.1%}"
            if self._show and self._bar.disable:
                validation = f"val loss {row['val/loss']:.4f}  val accuracy {row['val/accuracy']:.2%}"
                line = f"loss {loss:.4f}  accuracy {accuracy:.2%}  {validation}  {speed} images/s"
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

    def say(self, line: str) -> None:
        """Print a line above the bar, if there is anything in it."""
        if line and self._show:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _fitted(parts: dict[str, str], room: int) -> str:
    """Join parts of a line with spaces, without the less important ones if there is no room for them."""
    text = " ".join(filter(None, parts.values()))
    for name in _LEAST_IMPORTANT:
        if len(text) > room:
            parts = {other: part for other, part in parts.items() if other != name}
            text = " ".join(filter(None, parts.values()))
    return text
