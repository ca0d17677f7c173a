"""What the host knows of a run besides the training state; kept in its checkpoints."""

import dataclasses
import math
from collections.abc import Iterator

from eanet.training.step import Monitor

FAR = "is far above that of uniform guessing (config.guard.loss)"


@dataclasses.dataclass
class Tally:
    """Of each member its best validation and whether it has diverged; of the run its seconds and its memory."""

    accuracy_best: list[float]  # of each member, on the validation split
    epoch_best: list[int]
    diverged: list[int]  # the step at which a member was seen to have diverged; -1 = never
    seconds_train: float = 0.0
    seconds_evaluate: float = 0.0
    seconds_compile: float = 0.0
    activation_bytes: float = 0.0  # per image, of the compiled training program

    @classmethod
    def of(cls, members: int) -> "Tally":
        """Give the tally of a run that begins."""
        return cls([-1.0] * members, [0] * members, [-1] * members)

    def healthy(self, member: int) -> bool:
        """Tell whether a member has not diverged."""
        return self.diverged[member] < 0

    def best(self, member: int, epoch: int, accuracy: float) -> dict[str, float]:
        """Take note of a member's accuracy on the validation split; gives its best metrics so far."""
        if accuracy > self.accuracy_best[member]:
            self.accuracy_best[member], self.epoch_best[member] = accuracy, epoch
        return {"val/accuracy_best": self.accuracy_best[member], "val/epoch_best": self.epoch_best[member]}

    def diverging(self, monitor: Monitor) -> Iterator[tuple[int, int, str]]:
        """Give each member that a call has seen diverge, with the step and what was seen there."""
        for i, at in enumerate(map(int, monitor.diverged_step)):
            if self.healthy(i) and at >= 0:
                loss, rate, norm = (float(x[i]) for x in (monitor.loss, monitor.learning_rate, monitor.grad_norm))
                finite = math.isfinite(loss) and math.isfinite(norm)
                what = f"loss {loss:g} {FAR}" if finite else "loss or gradient is not finite"
                yield i, at, f"{what} at step {at} (learning rate {rate:g}, gradient norm {norm:g})"
