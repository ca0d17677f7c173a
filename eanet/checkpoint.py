"""Checkpoints of a run with Orbax: the training state, and the few host values that go with it."""

import json
import logging
import pathlib
from typing import Any

import orbax.checkpoint as ocp

from eanet.errors import UserError
from eanet.step import TrainState


class Checkpoints:
    """Save and restore a run's state, asynchronously; Orbax renames a checkpoint into place when it is whole."""

    def __init__(self, directory: pathlib.Path, keep: int = 1, read_only: bool = False):
        # Orbax warns of what read_only means, which is what is asked for here.
        logging.getLogger("absl").setLevel(logging.ERROR if read_only else logging.WARNING)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            read_only=read_only,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=not read_only,
        )
        self._directory = directory
        self._manager = ocp.CheckpointManager(directory, options=options)

    def latest_step(self) -> int | None:
        """Give the step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int, extra: dict[str, Any]) -> None:
        """Save the state with JSON-able values beside it; returns once the state may be donated again."""
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), extra=ocp.args.JsonSave(extra))
        self._manager.save(step, args=args, force=True)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Restore the newest checkpoint into the shapes and shardings of `like`; None where there is none.

        Raises UserError where it cannot be read or holds another architecture.
        """
        step = self.latest_step()
        if step is None:
            return None
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), extra=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=args)
        except (ValueError, KeyError, OSError, TypeError, json.JSONDecodeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"checkpoint {step} in {self._directory} cannot be restored: {reason}", 1) from error
        return restored["state"], restored["extra"]

    def close(self) -> None:
        """Wait for the last save to be on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
