"""W&B without an account: really written, readable, named as documented, and truly off when disabled."""

import json
import os
import subprocess
import sys
import types

import pytest

from eanet import train
from eanet.errors import UserError
from eanet.run import tracking, wandb_client
from helpers.tiny import tiny_config


def _inspect(workdir):
    """Read an offline run back with W&B's own reader, in another process, after it is closed."""
    import wandb

    wandb.teardown()
    (directory,) = (workdir / "wandb").glob("offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.system
def test_an_offline_run_holds_config_metrics_and_summary(tmp_path, capfd):
    results = train.train(tiny_config(wandb__mode="offline", wandb__tags=("mine",)), tmp_path)
    text = json.dumps(_inspect(tmp_path))
    assert "wandb sync" in capfd.readouterr().out
    for name in ("num_heads", "val/accuracy_best", "train/grad_norm", "parameters", "mine", "digits-external-h4-"):
        assert name in text
    assert "_fields" not in text, "a ConfigDict was logged instead of its dict"
    assert str(results["test/loss"])[:8] in text
    assert json.loads((tmp_path / "wandb.json").read_text())["id"]


@pytest.mark.system
def test_auto_without_an_account_is_offline_in_one_line(tmp_path, capfd):
    tracker = tracking.start(tiny_config(wandb__mode="auto").to_dict(), tmp_path, "", primary=True)
    tracker.finish()
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("W&B: logging offline (no API key)") and "wandb login" in lines[0]
    assert len(lines) == 3


@pytest.mark.parametrize("below", [True, False])
def test_an_offline_run_says_how_to_view_and_to_upload_it_with_the_shortest_paths(tmp_path, capsys, monkeypatch, below):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path if below else tmp_path / "elsewhere")
    directory = tmp_path / "my runs" / "wandb" / "offline-run-1-abc"
    directory.mkdir(parents=True)
    run = types.SimpleNamespace(id="abc", offline=True, sync_dir=str(directory), summary={}, finish=lambda exit_code: 0)
    tracking.Tracker(run, tmp_path / "my runs").finish()
    shown = f"'{'' if below else f'{tmp_path}/'}my runs/wandb/offline-run-1-abc'"
    assert capsys.readouterr().out == f"W&B, view:    wandb leet {shown}\nW&B, upload:  wandb sync {shown}\n"


@pytest.mark.system
@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_auto_obeys_the_environment(tmp_path, monkeypatch, mode):
    import wandb

    wandb.teardown()  # settings are read once in a process
    monkeypatch.setenv("WANDB_MODE", mode)
    tracker = tracking.start(tiny_config(wandb__mode="auto").to_dict(), tmp_path, "", primary=True)
    assert bool(tracker.run_id) == (mode == "offline")
    tracker.finish()
    wandb.teardown()


@pytest.mark.system
def test_online_without_an_account_fails_loudly(tmp_path):
    with pytest.raises(UserError, match=r"config\.wandb\.mode='online' cannot be had") as stop:
        tracking.start(tiny_config(wandb__mode="online").to_dict(), tmp_path, "", primary=True)
    assert stop.value.exit_code == 1


@pytest.mark.system
def test_auto_with_a_key_but_no_server_goes_on_offline(tmp_path):
    """In a process of its own, against a closed port: within seconds, not W&B's 100."""
    program = (
        "import sys; from helpers.tiny import tiny_config; from eanet.run import tracking;"
        "tracking.start(tiny_config(wandb__mode='auto').to_dict(), sys.argv[1], '', True).finish()"
    )
    environment = os.environ | {
        "WANDB_API_KEY": "0" * 40,
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "PYTHONPATH": os.pathsep.join(["tests", "."]),
    }
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "warning: W&B: TimeoutError: no answer from http://127.0.0.1:9; logging offline" in done.stdout


@pytest.mark.system
@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_disabled_does_not_even_import_wandb(tmp_path, mode):
    program = (
        "import sys; from helpers.tiny import tiny_config; from eanet import train;"
        "train.train(tiny_config(wandb__mode=sys.argv[2], train__epochs=1), sys.argv[1]);"
        "print('IMPORTED', 'wandb' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["tests", "."])}
    command = [sys.executable, "-c", program, str(tmp_path), mode]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert f"IMPORTED {mode == 'offline'}" in done.stdout, done.stderr


def test_only_the_primary_process_logs(tmp_path):
    assert tracking.start(tiny_config(wandb__mode="offline").to_dict(), tmp_path, "", primary=False).run_id == ""
    assert not (tmp_path / "wandb").exists()


def test_the_group_leaves_out_the_seed_and_nothing_else():
    arms = {wandb_client.arm(tiny_config(seed=seed).to_dict()) for seed in (0, 1)}
    assert len(arms) == 1
    assert wandb_client.arm(tiny_config(model__depth=2).to_dict()) not in arms
    assert wandb_client.arm(tiny_config(model__attention="none").to_dict()).startswith("digits-none-")
