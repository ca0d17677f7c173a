"""The time of a run: when the next row of metrics is due, how many steps a call takes, images per second."""

from eanet.training.experiment import Experiment

# The host breaks up long calls, so that the bar moves and a signal is heard about this often.
_CALL_SECONDS = 2.0


class Clock:
    """Count the steps of a run and the seconds that they take."""

    def __init__(self, experiment: Experiment, steps_per_row: int, networks: int, step: int):
        self.step = step  # taken so far
        self.pace = 1.0  # steps that a call should take
        self._experiment, self._steps_per_row, self._networks = experiment, steps_per_row, networks
        self._row_due = self._next_row()
        self._seconds, self._first = 0.0, step  # of training since the last row, and the step it started from

    @property
    def steps_of_call(self) -> int:
        """Return how many steps the next call takes: at its pace, and not beyond the next row."""
        return min(self._row_due - self.step, max(1, int(self.pace)))

    @property
    def row_is_due(self) -> bool:
        """Return whether a row of metrics ends here."""
        return self.step == self._row_due

    @property
    def epochs(self) -> float:
        """Return the epochs that have been trained, as a whole number of steps."""
        return self.step / self._experiment.steps_per_epoch

    @property
    def epoch_ends(self) -> bool:
        """Return whether an epoch ends here."""
        return self.step % self._experiment.steps_per_epoch == 0

    @property
    def run_ends(self) -> bool:
        """Return whether all steps have been taken."""
        return self.step == self._experiment.total_steps

    @property
    def images_per_second(self) -> float:
        """Return the images that all networks together have seen a second, since the last row."""
        return self.images(self.step - self._first) / self._seconds

    def images(self, steps: int) -> float:
        """Return how many images all networks together see in so many steps."""
        return steps * self._experiment.train_examples / self._experiment.steps_per_epoch * self._networks

    def took(self, steps: int, seconds: float) -> None:
        """Count a call."""
        self.step += steps
        self.pace = _CALL_SECONDS * steps / seconds
        self._seconds += seconds

    def start_row(self) -> None:
        """Begin to count the seconds of the next row."""
        self._seconds, self._first = 0.0, self.step
        self._row_due = self._next_row()

    def _next_row(self) -> int:
        """Return the step of the next row: a multiple of steps_per_row within its epoch, or its end."""
        per_epoch = self._experiment.steps_per_epoch
        start = self.step // per_epoch * per_epoch
        if not self._steps_per_row:
            return start + per_epoch
        return min(start + per_epoch, start + ((self.step - start) // self._steps_per_row + 1) * self._steps_per_row)
