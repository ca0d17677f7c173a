"""Progress of a run: a bar on a terminal, a plain line an epoch elsewhere."""

import sys

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class RunProgress:
    """Show epoch, step, loss, accuracy, images/s and time left; a context manager."""

    def __init__(self, epochs: int, steps_per_epoch: int, step: int, members: int = 1, show: bool = True):
        self._validation = ""  # stays on the bar through the next epoch
        self._epochs, self._steps_per_epoch, self._show = epochs, steps_per_epoch, show
        self._whose = f"mean of {members}: " if members > 1 else ""
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=8),  # so that all of it fits a terminal of 80 columns
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            disable=not (show and sys.stdout.isatty()),
        )
        total = epochs * steps_per_epoch
        self._task = self._bar.add_task("", total=total, completed=step, epoch=self._epoch(step), text="compiling")

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def _epoch(self, step: int) -> str:
        return f"{max(0, step - 1) // self._steps_per_epoch + 1}/{self._epochs}"

    def update(self, step: int, row: dict[str, float]) -> None:
        """Show a row of metrics; off a terminal only one that ends an epoch."""
        loss, accuracy, speed = row["train/loss"], row["train/accuracy"], f"{row['train/images_per_second']:.0f}"
        if "val/loss" in row:
            self._validation = f" val {row['val/accuracy']:.1%}"
            if self._show and self._bar.disable:
                validation = f"val loss {row['val/loss']:.4f}  val accuracy {row['val/accuracy']:.2%}"
                line = f"{self._whose}loss {loss:.4f}  accuracy {accuracy:.2%}  {validation}  {speed} images/s"
                self.say(f"epoch {self._epoch(step)}  step {step}  {line}")
        text = f"{self._whose}loss {loss:.3f} acc {accuracy:.1%}{self._validation} {speed} img/s"
        self._bar.update(self._task, completed=step, epoch=self._epoch(step), text=text)

    def say(self, line: str) -> None:
        """Print a line above the bar, if there is anything in it."""
        if line and self._show:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
