"""A sweep's progress: a live table on a terminal, a line for every finished run elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from eanet.run.progress import duration

_ROWS = 12  # newest finished runs stay on the screen, the others only count


class SweepTable:
    """Show done, running, failed, the best so far and the time left; a context manager.

    Points are those of eanet.sweep: they have workdir, state, seconds, earlier, message, share() and metric().
    """

    def __init__(self, name: str, metric: str, maximize: bool, total: int):
        self._name, self._metric, self._maximize, self._total = name, metric, maximize, total
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._live = Live(console=Console(), refresh_per_second=2, transient=True)
        self._started = time.monotonic()

    def __enter__(self) -> "SweepTable":
        self._started = time.monotonic()
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def settled(self, point: Any) -> None:
        """Take note of a run that has ended."""
        result = point.metric(self._metric)
        text = "" if result is None else f"  {self._metric} {self._shown(result)}"
        line = f"{point.state}  {point.workdir.name}{text}  {duration(point.seconds)}"
        if point.message:
            line += "".join(f"\n    {part}" for part in point.message.splitlines())
        if point.state == "failed" or not self._console.is_terminal:
            (self._live.console if self._live.is_started else self._console).print(
                line, highlight=False, markup=False, soft_wrap=True
            )

    def update(self, points: list[Any]) -> None:
        """Draw the table anew."""
        if not self._live.is_started:
            return
        table = Table(
            title=self.summary(points), title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0)
        )
        for column in ("run", "state", self._metric, "time"):
            table.add_column(column, justify="left" if column in ("run", "state") else "right", no_wrap=True)
        running = [point for point in points if point.state == "running"]
        ended = [point for point in points if point.state in ("done", "failed")]
        for point in [*running, *ended[::-1][: max(0, _ROWS - len(running))]]:
            result = point.metric(self._metric)
            state = f"{point.share():.0%}" if point.state == "running" else point.state
            value = "" if result is None else self._shown(result)
            table.add_row(point.workdir.name, state, value, duration(point.seconds))
        self._live.update(table)

    def summary(self, points: list[Any]) -> str:
        """Return one line: counts, the best so far, the time left."""
        count = {state: sum(point.state == state for point in points) for state in ("done", "running", "failed")}
        parts = [f"{self._name}: {count['done']} of {self._total} done"]
        parts += [f"{count[state]} {state}" for state in ("running", "failed") if count[state]]
        results = [(point.metric(self._metric), point.workdir.name) for point in points if point.state == "done"]
        results = [result for result in results if result[0] is not None]
        if results:
            value, name = (max if self._maximize else min)(results)
            parts.append(f"best {self._metric} {self._shown(value)} ({name})")
        left = self._seconds_left(points)
        if left and count["running"]:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def _shown(self, value: float) -> str:
        """Return a value of the metric as everything else shows it: accuracies in percent."""
        return f"{value:.2%}" if "accuracy" in self._metric else f"{value:.4f}"

    def _seconds_left(self, points: list[Any]) -> float | None:
        """Estimate from what this sitting has done; a run counts the same whatever its size."""
        done = sum(point.share() - point.earlier for point in points if point.state in ("running", "done"))
        open_ = sum(1 - point.share() for point in points if point.state in ("running", "waiting"))
        open_ += self._total - len(points)
        return open_ * (time.monotonic() - self._started) / done if done > 0 else None
