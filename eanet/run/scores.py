"""What is known of a run's networks besides their training state: best accuracy, divergence, seconds, memory.

Kept in the checkpoints.
"""

import dataclasses
import math
from collections.abc import Iterator

from eanet.training.step import Monitor

_FAR = "is far above that of uniform guessing (config.guard.loss)"


@dataclasses.dataclass
class Scores:
    """The best validation of each member and whether it has diverged; the seconds and the memory of the run."""

    accuracy_best: list[float]  # of each member, on the validation split
    epoch_best: list[int]
    diverged: list[int]  # the step at which a member was seen to have diverged; -1 = never
    seconds_train: float = 0.0
    seconds_evaluate: float = 0.0
    seconds_compile: float = 0.0
    activation_bytes: float = 0.0  # per image, of the compiled training program

    @classmethod
    def of(cls, members: int) -> "Scores":
        """Return the scores of a run that begins."""
        return cls([-1.0] * members, [0] * members, [-1] * members)

    def healthy(self, member: int) -> bool:
        """Return whether a member has not diverged."""
        return self.diverged[member] < 0

    def drop(self, member: int, step: int) -> bool:
        """Mark a member as diverged at a step, and return whether there is another that has not."""
        self.diverged[member] = step
        return min(self.diverged) < 0

    def best(self, member: int, epoch: int, accuracy: float) -> dict[str, float]:
        """Take in a member's accuracy on the validation split, and return its best metrics so far."""
        if accuracy > self.accuracy_best[member]:
            self.accuracy_best[member], self.epoch_best[member] = accuracy, epoch
        return {"val/accuracy_best": self.accuracy_best[member], "val/epoch_best": self.epoch_best[member]}

    def diverging(self, monitor: Monitor) -> Iterator[tuple[int, int, str]]:
        """Yield each member that diverged in a call, with the step and what was seen there."""
        for i, step in enumerate(map(int, monitor.diverged_step)):
            if self.healthy(i) and step >= 0:
                loss, rate, norm = (float(x[i]) for x in (monitor.loss, monitor.learning_rate, monitor.grad_norm))
                finite = math.isfinite(loss) and math.isfinite(norm)
                what = f"loss {loss:g} {_FAR}" if finite else "loss or gradient is not finite"
                yield i, step, f"{what} at step {step} (learning rate {rate:g}, gradient norm {norm:g})"


def what_diverged(split: str, loss: float, limit: float) -> str:
    """Return what is wrong with the loss on a split; empty if it is not above the limit."""
    if loss <= limit:
        return ""
    return f"{split} loss {loss:g} {_FAR}" if math.isfinite(loss) else f"{split} loss is not finite"
