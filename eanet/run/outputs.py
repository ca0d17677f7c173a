"""Where a run's numbers go: its record on disk, its checkpoints and W&B, written and closed in this order."""

import dataclasses
from types import TracebackType
from typing import Any

import jax
import ml_collections

from eanet.run import tracking
from eanet.run.checkpoint import Checkpoints
from eanet.run.record import Record, environment
from eanet.run.scores import Scores
from eanet.training.members import Member
from eanet.training.step import TrainState


class Outputs:
    """The record, the checkpoints and the W&B run of a run; a context manager around training and test.

    Leaving it waits for the last checkpoint and then closes W&B, with `results` and how the run has ended.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, record: Record, checkpoints: Checkpoints, members: list[Member]
    ):
        self._fields, self.record, self.checkpoints = config.to_dict(), record, checkpoints
        self._names = [member.name for member in members] if len(members) > 1 else []
        self.run_id = str(record.read_note("wandb.json").get("id", ""))  # W&B's
        self.results: dict[str, Any] = {}
        self._tracker = tracking.Tracker()

    def __enter__(self) -> "Outputs":
        primary = jax.process_index() == 0
        self._tracker = tracking.start(self._fields, self.record.workdir, self.run_id, primary, self._names)
        if self._tracker.run_id:
            self.run_id = self._tracker.run_id
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = error.code if isinstance(error, SystemExit) else int(error is not None)
        try:
            self.checkpoints.close()
        finally:
            self._tracker.finish(self.results, self.record.curves, code)

    def begin(self, size: dict[str, float]) -> None:
        """Tell W&B what the run is: parameters and multiply-adds, its environment, and the rows that it has."""
        if self._tracker.run_id:
            self.record.write("wandb.json", {"id": self.run_id})
        self._tracker.describe(size | {"environment": environment()})
        self._tracker.catch_up(self.record.rows())

    def write_row(self, row: dict[str, Any]) -> None:
        """Write a row of metrics, unless the checkpoint before it cannot be written."""
        self.checkpoints.check()
        self.record.append(row)
        self._tracker.log(row)

    def save(self, state: TrainState, step: int, scores: Scores) -> None:
        """Save a checkpoint; returns once the state may be donated again."""
        extra = {"tally": dataclasses.asdict(scores), "wandb_run_id": self.run_id, "rows": len(self.record.rows())}
        self.checkpoints.save(state, step, self._fields, extra)
