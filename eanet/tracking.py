"""Weights & Biases, imported only where it is switched on; the dashboard apart, nobody else imports it.

Without an account or a network a run is logged offline, beside its other files, and says how to upload it.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections

from eanet import config as config_lib
from eanet.errors import UserError

_LOGIN_SECONDS = "3"  # for the server to confirm a key; W&B's own limit is 10 s
_INIT_SECONDS = 30  # W&B's own limit is 90 s
_FINISH_SECONDS = 120  # for the upload at the end; without a limit it waits for ever


def arm(config: dict[str, Any]) -> str:
    """Name a configuration without its seeds, so that seeds of one arm form one W&B group."""
    model = config["model"]
    seeds = ("seed", "num_seeds", "seeds_per_call")
    rest = {name: value for name, value in config.items() if name not in (*seeds, "wandb")}
    heads = "" if model["attention"] == "none" else f"-h{model['num_heads']}"
    return f"{config['data']['name']}-{model['attention']}{heads}-{config_lib.fingerprint(rest)}"


class Tracker:
    """One W&B run, or nothing where it is disabled or this process is not the primary."""

    def __init__(self, run: Any = None):
        self._run = run

    @property
    def run_id(self) -> str:
        """W&B's id of the run; empty where there is none."""
        return self._run.id if self._run else ""

    def describe(self, facts: dict[str, Any]) -> None:
        """Add derived facts, parameter counts and versions say, to the run's configuration."""
        if self._run:
            self._run.config.update(facts, allow_val_change=True)

    def log(self, row: dict[str, Any]) -> None:
        """Log a row of plain numbers, its epoch among them. Never fails a run."""
        if self._run:
            self._run.log(row)

    def finish(self, summary: dict[str, Any] | None = None, picture: pathlib.Path | None = None, exit_code: int = 0):
        """Store the final numbers and the curves, and close the run."""
        if not self._run:
            return
        import wandb

        self._run.summary.update(summary or {})
        if picture and picture.exists():
            self._run.log({"curves": wandb.Image(str(picture))})
        offline, directory = self._run.offline, self._run.sync_dir
        self._run.finish(exit_code=exit_code)
        if offline:
            print(f"W&B: look at the run with  wandb leet {directory}  and upload it with  wandb sync {directory}")


def start(
    config: dict[str, Any], workdir: pathlib.Path, run_id: str, primary: bool, members: Sequence[str] = ()
) -> Tracker:
    """Start or resume the run's W&B run as `config.wandb` says; members are the names that metrics begin with.

    Raises UserError only where mode is `online` and that cannot be had.
    """
    wanted = config["wandb"]["mode"]
    if wanted == "disabled" or not primary:
        return Tracker()
    import wandb

    errors = (wandb.errors.CommError, wandb.errors.UsageError, wandb.errors.AuthenticationError)
    mode, why = _choose_mode(wandb) if wanted == "auto" else (wanted, "")
    if mode == "disabled":
        return Tracker()
    try:
        run = _init(wandb, config, workdir, run_id, mode)
    except errors as error:
        reason = str(error).strip().splitlines()[0]
        if wanted == "online":
            raise UserError(
                f"config.wandb.mode='online' cannot be had: {reason}; accepted without: auto, offline, disabled", 1
            ) from error
        mode, why = "offline", reason
        run = _init(wandb, config, workdir, run_id, mode)
    if mode == "offline" and why:
        print(f"W&B: logging offline ({why}); `wandb login` once to log online, `wandb sync` uploads later.")
    elif mode == "online":
        print(f"W&B: {run.url}")
    for name in ("train", "val", *members):
        run.define_metric(f"{name}/*", step_metric="epoch")
    return Tracker(run)


def _choose_mode(wandb: Any) -> tuple[str, str]:
    """Give what the environment or settings say, else online where a key is found that the server accepts."""
    mode = wandb.setup().settings.mode
    if mode != "online":
        return {"dryrun": "offline"}.get(mode, mode), ""
    before = os.environ.get("WANDB_HTTP_TIMEOUT")
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", _LOGIN_SECONDS)
    try:
        return ("online", "") if wandb.login(prompt=False) else ("offline", "no API key")
    except (wandb.errors.AuthenticationError, wandb.errors.CommError, wandb.errors.UsageError) as error:
        return "offline", str(error).strip().splitlines()[0]
    finally:
        if before is None:
            del os.environ["WANDB_HTTP_TIMEOUT"]


def _init(wandb: Any, config: dict[str, Any], workdir: pathlib.Path, run_id: str, mode: str) -> Any:
    fields = ml_collections.ConfigDict(config["wandb"])
    group = arm(config)
    tags = tuple(fields.tags) or (() if "WANDB_TAGS" in os.environ else (config["data"]["name"], group.split("-")[1]))
    seeds = config["seed"] if config["num_seeds"] == 1 else f"{config['seed']}x{config['num_seeds']}"
    own: dict[str, Any] = {"resume": "allow"}
    if "WANDB_SWEEP_ID" not in os.environ:  # in a sweep the agent has said these, and W&B warns of others
        own |= {"project": fields.project, "entity": fields.entity or None, "id": run_id or None}
    return wandb.init(
        mode=mode,
        dir=str(workdir),
        config=config,
        name=None if "WANDB_NAME" in os.environ else f"{group}-s{seeds}",
        group=fields.group or os.environ.get("WANDB_RUN_GROUP") or group,
        job_type=fields.job_type or None,
        tags=tags or None,
        settings=wandb.Settings(
            init_timeout=_INIT_SECONDS,
            finish_timeout=_FINISH_SECONDS,
            x_transaction_log_flush_interval=2.0,  # what a kill may cost; W&B's own is 15 s
            silent=mode == "offline",  # we say the same in one line
        ),
        **own,
    )
