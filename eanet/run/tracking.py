"""Logging to Weights & Biases, imported only if enabled. Only eanet.dashboard imports it as well.

Without an account or a network a run is logged offline, beside its other files, and says how to upload it. Whatever
W&B and its server do, a run continues. If something went wrong, it is written again at its end, whole, offline, from
its own record and with a new id: `wandb sync` appends to what the server has, so that rows which had arrived would be
there twice, and W&B's own file lacks the rows that its process did not live to write.
"""

import contextlib
import os
import pathlib
import secrets
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from eanet.errors import UserError
from eanet.run import wandb_client
from eanet.run.record import Record


class Tracker:
    """One W&B run, or nothing if it is disabled or this process is not the primary. Never fails a run.

    `reopen` starts it anew, offline and with another id; `heard` is what W&B has said.
    """

    def __init__(
        self,
        run: Any = None,
        workdir: pathlib.Path | None = None,
        reopen: Callable[[str], Any] | None = None,
        heard: wandb_client.Messages | None = None,
    ):
        self._run, self._workdir, self._reopen, self._heard = run, workdir, reopen, heard or wandb_client.Messages()
        self._facts: dict[str, Any] = {}
        self._fault = ""  # after which nothing more is sent
        self._logged = -1  # the last step that the server has

    def add_only(self) -> None:
        """Leave what the server has as it is, whatever goes wrong: the run is complete there already."""
        self._reopen = None

    @property
    def run_id(self) -> str:
        """W&B's id of the run; empty if there is none."""
        return self._run.id if self._run else ""

    def describe(self, facts: dict[str, Any]) -> None:
        """Add derived facts, e.g. parameter counts and versions, to the run's configuration."""
        self._facts |= facts
        self._attempt(lambda run: run.config.update(facts, allow_val_change=True))

    def log(self, row: dict[str, Any]) -> None:
        """Log a row of plain numbers, its step and its epoch among them, unless the server has it."""
        if row["step"] > self._logged:
            self._attempt(lambda run: run.log(row))

    def show(self, name: str, pictures: Sequence[pathlib.Path]) -> None:
        """Log pictures as one panel, each with its file's name below it."""

        def log(run: Any) -> None:
            import wandb

            run.log({name: [wandb.Image(str(path), caption=path.stem) for path in pictures]})

        self._attempt(log)

    def catch_up(self, rows: Sequence[dict[str, Any]]) -> None:
        """Log the rows from before a resumption that a killed process did not live to send."""

        def see(run: Any) -> None:
            self._logged = int(run.summary.get("step", -1))

        if self._run and not self._run.offline:  # an offline part holds its own rows
            self._attempt(see)
            for row in rows:
                self.log(row)

    def finish(self, summary: dict[str, Any] | None = None, picture: pathlib.Path | None = None, exit_code: int = 0):
        """Store the final numbers and the curves, close the run, and say how to upload what is not."""
        if not self._run:
            return

        def close(run: Any) -> None:
            import wandb

            run.summary.update(summary or {})
            if picture and picture.exists():
                run.log({"curves": wandb.Image(str(picture))})
            try:
                run.finish(exit_code=exit_code)
            except TimeoutError as error:
                text = f"the server has not taken everything within {wandb_client.finish_seconds():g} s of the end"
                raise TimeoutError(text + self._heard.failed_request) from error

        offline, directory = self._run.offline, self._run.sync_dir
        self._attempt(close)
        fault = self._fault or self._heard.fault()
        if fault and self._reopen:
            self._write_again(fault, close)
        elif fault:
            print(f"warning: W&B: {fault}; what was to be added to the run is not there")
        elif offline:
            parts = _waiting(self._workdir, self.run_id)
            print(f"W&B, view:    {shlex.join(['wandb', 'leet', _shown(directory)])}\nW&B, upload:  {_upload(parts)}")

    def _attempt(self, action: Callable[[Any], None]) -> None:
        """Do something with the run, if there is one and nothing has failed yet."""
        if not self._run or self._fault:
            return
        try:
            action(self._run)
        except Exception as error:
            self._fault = _reason(error)

    def _write_again(self, fault: str, close: Callable[[Any], None]) -> None:
        """Write the run, with the rows from before a resumption, into a new offline one, and say so."""
        import wandb

        record = Record(self._workdir)
        with contextlib.suppress(Exception, SystemExit):  # W&B's process may be what has died
            wandb.teardown()
        try:
            run_id = secrets.token_hex(4)  # of eight characters, as W&B's own
            if "WANDB_SWEEP_ID" in os.environ:  # where W&B reads the id from the environment only
                os.environ["WANDB_RUN_ID"] = run_id
            run = self._reopen(run_id)
            run.config.update(self._facts, allow_val_change=True)
            for row in record.rows():
                run.log(row)
            directory = run.sync_dir
            close(run)
            record.write("wandb.json", {"id": run.id})  # which a resumption continues
            print(f"warning: W&B: {fault}; upload the whole run, as a new one, with  {_upload([directory])}")
        except Exception as error:
            print(f"warning: W&B: {fault}; the run is in {_shown(self._workdir)} only, not for W&B ({_reason(error)})")


def start(
    config: dict[str, Any], workdir: pathlib.Path, run_id: str, primary: bool, members: Sequence[str] = ()
) -> Tracker:
    """Start or resume the run's W&B run as `config.wandb` says; members are the names that metrics begin with.

    Raises UserError only if mode is `online` or `offline` and that cannot be had.
    """
    wanted = config["wandb"]["mode"]
    if wanted == "disabled" or not primary:
        return Tracker()
    workdir, heard, notice, fault = pathlib.Path(workdir).absolute(), wandb_client.Messages(), "", ""

    def init(run_id: str, mode: str) -> Any:
        return wandb_client.open_run(config, workdir, run_id, mode, ("train", "val", "inspect", *members), heard)

    waiting = _waiting(workdir, run_id)
    if wanted == "online" and waiting:
        raise UserError(f"config.wandb.mode='online': an earlier part of the run comes first:  {_upload(waiting)}", 1)
    try:
        mode, notice = wandb_client.choose_mode(bool(waiting), heard) if wanted == "auto" else (wanted, "")
        if mode == "disabled":
            return Tracker()
        run = init(run_id, mode)
    except Exception as error:
        fault = _reason(error)
        if wanted != "auto":
            accepted = ", ".join(mode for mode in ("auto", "offline", "disabled") if mode != wanted)
            raise UserError(
                f"config.wandb.mode={wanted!r} cannot be had: {fault}; accepted without: {accepted}", 1
            ) from error
        try:
            run = init(run_id, "offline")
        except Exception as second:
            print(f"warning: W&B: {fault}; nor can it log offline ({_reason(second)}): the run continues without it")
            return Tracker()
    if fault:
        later = f"logging offline, upload the run at its end with  {_upload(_waiting(workdir, run.id))}"
        print(f"warning: W&B: {fault}; {later}")
    elif notice:
        print(f"W&B: logging offline {notice}, `wandb sync` uploads later.")
    elif mode == "online":
        print(f"W&B: {run.url}")
    return Tracker(run, workdir, lambda run_id: init(run_id, "offline"), heard)


def add_pictures(config: dict[str, Any], workdir: pathlib.Path, name: str, pictures: Sequence[pathlib.Path]) -> None:
    """Add pictures to the W&B run of a run that has ended, and say so if there is none."""
    run_id = str(Record(workdir, primary=False).read_note("wandb.json").get("id", ""))
    if not run_id or config["wandb"]["mode"] == "disabled":
        print(f"warning: W&B: {_shown(workdir)} was not logged to it; nothing was added")
        return
    tracker = start(config, workdir, run_id, primary=True)
    tracker.add_only()
    tracker.show(name, pictures)
    tracker.finish()


def _waiting(workdir: pathlib.Path, run_id: str) -> list[pathlib.Path]:
    """Return the parts of a run that were logged offline and not uploaded, in their order."""
    parts = (
        sorted(workdir.glob(f"*wandb/offline-run-*-{run_id}")) if run_id else []
    )  # .wandb where the user has made it
    return [part for part in parts if not any(part.glob("*.synced"))]


def _upload(parts: Sequence[str | pathlib.Path]) -> str:
    return shlex.join(["wandb", "sync", *map(_shown, parts)])


def _shown(path: str | pathlib.Path) -> str:
    """Return a path from the working directory on if it lies below it: shorter, and as the person gave it."""
    absolute, here = pathlib.Path(path).absolute(), pathlib.Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {wandb_client.first_line(str(error))}"
