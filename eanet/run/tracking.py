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

import ml_collections

from eanet.attention import field_names
from eanet.config import stored
from eanet.errors import UserError
from eanet.run.record import Record

_LOGIN_SECONDS = "3"  # for the server to confirm a key; W&B's own limit is 10 s
_INIT_SECONDS = 30  # W&B's own limit is 90 s
# For the upload at the end; without a limit it waits for ever. Half of the 30 s that batch systems commonly leave
# between SIGTERM and SIGKILL; WANDB_FINISH_TIMEOUT says otherwise.
_FINISH_SECONDS = 15.0


def arm(config: dict[str, Any]) -> str:
    """Name a configuration without its seeds, so that seeds of one arm form one W&B group."""
    model = config["model"]
    seeds = ("seed", "num_seeds", "seeds_per_call")
    rest = {name: value for name, value in config.items() if name not in (*seeds, "wandb")}
    heads = f"-h{model['num_heads']}" if "num_heads" in field_names(model["attention"]) else ""
    return f"{config['data']['name']}-{model['attention']}{heads}-{stored.fingerprint(rest)}"


class _Messages:
    """Takes what W&B would print, to be said in one line of ours: the last failed request, and the first warning."""

    def __init__(self) -> None:
        self.failed_request = self.first_warning = ""

    def info(self, text: str) -> None:
        if " encountered (" in text:
            self.failed_request = f" ({_line(text)})"

    def warning(self, text: str) -> None:
        self.first_warning = self.first_warning or _line(text).split(". ")[0]

    error = warning

    def fault(self) -> str:
        """Return what was wrong with the run, if anything was."""
        return self.first_warning and self.first_warning + self.failed_request


class Tracker:
    """One W&B run, or nothing if it is disabled or this process is not the primary. Never fails a run.

    `reopen` starts it anew, offline and with another id; `heard` is what W&B has said.
    """

    def __init__(
        self,
        run: Any = None,
        workdir: pathlib.Path | None = None,
        reopen: Callable[[str], Any] | None = None,
        heard: _Messages | None = None,
    ):
        self._run, self._workdir, self._reopen, self._heard = run, workdir, reopen, heard or _Messages()
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
                text = f"the server has not taken everything within {_finish_seconds():g} s of the end"
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
    workdir, heard, notice, fault = pathlib.Path(workdir).absolute(), _Messages(), "", ""

    def init(run_id: str, mode: str) -> Any:
        return _init(config, workdir, run_id, mode, ("train", "val", "inspect", *members), heard)

    waiting = _waiting(workdir, run_id)
    if wanted == "online" and waiting:
        raise UserError(f"config.wandb.mode='online': an earlier part of the run comes first:  {_upload(waiting)}", 1)
    try:
        mode, notice = _choose_mode(bool(waiting), heard) if wanted == "auto" else (wanted, "")
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


def _choose_mode(waiting: bool, heard: _Messages) -> tuple[str, str]:
    """Return what the environment or settings say, else online where a key is found that the server accepts.

    Beside it stands why a run is logged offline, if nothing is wrong. Raises W&B's errors where the server does not
    accept the key or does not answer.
    """
    import wandb

    settings = _setup(heard).settings
    if settings.mode != "online":
        return {"dryrun": "offline"}.get(settings.mode, settings.mode), ""
    if waiting:  # later rows must not arrive before those
        return "offline", "(an earlier part of the run has not been uploaded)"
    before = os.environ.get("WANDB_HTTP_TIMEOUT")
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", _LOGIN_SECONDS)
    try:
        return ("online", "") if wandb.login(prompt=False) else ("offline", "(no API key); `wandb login` to log online")
    except wandb.errors.AuthenticationError as error:
        if "did not respond in time" in str(error):  # said of W&B's own process, which waits for the server
            raise TimeoutError(f"no answer from {settings.base_url}") from error
        raise
    finally:
        if before is None:
            del os.environ["WANDB_HTTP_TIMEOUT"]


def _setup(heard: _Messages) -> Any:
    """Prepare W&B in this process, silent: what it would print goes to `heard`."""
    import wandb

    setup = wandb.setup(wandb.Settings(silent=True))
    wandb.termsetup(setup.settings, heard)
    return setup


def _init(
    config: dict[str, Any],
    workdir: pathlib.Path,
    run_id: str,
    mode: str,
    prefixes: Sequence[str],
    heard: _Messages,
) -> Any:
    import wandb

    _setup(heard)
    fields = ml_collections.ConfigDict(config["wandb"])
    group = arm(config)
    tags = tuple(fields.tags) or (() if "WANDB_TAGS" in os.environ else (config["data"]["name"], group.split("-")[1]))
    seeds = config["seed"] if config["num_seeds"] == 1 else f"{config['seed']}x{config['num_seeds']}"
    own: dict[str, Any] = {"resume": "allow"}
    if "WANDB_SWEEP_ID" not in os.environ:  # in a sweep the agent has said these, and W&B warns of others
        own |= {"project": fields.project, "entity": fields.entity or None, "id": run_id or None}
    run = wandb.init(
        mode=mode,
        dir=str(workdir),
        config=config,
        name=None if "WANDB_NAME" in os.environ else f"{group}-s{seeds}",
        group=fields.group or os.environ.get("WANDB_RUN_GROUP") or group,
        job_type=fields.job_type or None,
        tags=tags or None,
        settings=wandb.Settings(
            init_timeout=_INIT_SECONDS,
            finish_timeout=_finish_seconds(),
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=2.0,  # what a kill may cost; W&B's own is 15 s
            silent=True,  # we say the same in one line
        ),
        **own,
    )
    for prefix in prefixes:
        run.define_metric(f"{prefix}/*", step_metric="epoch")
    return run


def _finish_seconds() -> float:
    return float(os.environ.get("WANDB_FINISH_TIMEOUT", _FINISH_SECONDS))


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
    return f"{type(error).__name__}: {_line(str(error))}"


def _line(text: str) -> str:
    """Return a text's first line, without the names that W&B's own printing begins with."""
    line = (text.strip().splitlines() or [""])[0]
    for prefix in ("wandb: ", "WARNING ", "ERROR "):
        line = line.removeprefix(prefix)
    return line
