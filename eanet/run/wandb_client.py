"""How W&B's client is called: its settings and limits, where a run is logged, and what it would print.

Imports wandb only when called. A run's own handling of it is in eanet.run.tracking.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections

from eanet.attention import field_names
from eanet.config import stored

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


class Messages:
    """Takes what W&B would print, to be said in one line of ours: the last failed request, and the first warning."""

    def __init__(self) -> None:
        self.failed_request = self.first_warning = ""

    def info(self, text: str) -> None:
        if " encountered (" in text:
            self.failed_request = f" ({first_line(text)})"

    def warning(self, text: str) -> None:
        self.first_warning = self.first_warning or first_line(text).split(". ")[0]

    error = warning

    def fault(self) -> str:
        """Return what was wrong with the run, if anything was."""
        return self.first_warning and self.first_warning + self.failed_request


def choose_mode(waiting: bool, heard: Messages) -> tuple[str, str]:
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


def _setup(heard: Messages) -> Any:
    """Prepare W&B in this process, silent: what it would print goes to `heard`."""
    import wandb

    setup = wandb.setup(wandb.Settings(silent=True))
    wandb.termsetup(setup.settings, heard)
    return setup


def open_run(
    config: dict[str, Any],
    workdir: pathlib.Path,
    run_id: str,
    mode: str,
    prefixes: Sequence[str],
    heard: Messages,
) -> Any:
    """Start or resume a run of W&B, and draw the metrics that begin with `prefixes` over epochs.

    run_id may be empty for a new one, mode is one of W&B's. Raises whatever W&B does.
    """
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
            finish_timeout=finish_seconds(),
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=2.0,  # what a kill may cost; W&B's own is 15 s
            silent=True,  # we say the same in one line
        ),
        **own,
    )
    for prefix in prefixes:
        run.define_metric(f"{prefix}/*", step_metric="epoch")
    return run


def finish_seconds() -> float:
    """Return the limit in seconds for the upload at the end of a run."""
    return float(os.environ.get("WANDB_FINISH_TIMEOUT", _FINISH_SECONDS))


def first_line(text: str) -> str:
    """Return a text's first line, without the names that W&B's own printing begins with."""
    line = (text.strip().splitlines() or [""])[0]
    for prefix in ("wandb: ", "WARNING ", "ERROR "):
        line = line.removeprefix(prefix)
    return line
