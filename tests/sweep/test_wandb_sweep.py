"""Sweeps, resumption and synchronisation with W&B's real client against a server on this machine."""

import json
import os
import re
import signal
import time

import numpy as np
import pytest

from helpers import runs
from helpers.wandb_clients import AGENTS_CHILD, DIGITS, TOY, Clients, registered

pytestmark = pytest.mark.system


@pytest.fixture
def clients(server, tmp_path):
    # Where pytest runs in the background its children would ignore SIGINT, and an agent's could outlive the test.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    clients = Clients(server, tmp_path)
    try:
        yield clients
    finally:
        clients.close()
        signal.signal(signal.SIGINT, before)


def _await_rows(directory, number):
    """Wait until the one run below a directory has logged rows; gives its workdir."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for file in directory.glob("**/metrics.jsonl"):
            if file.read_text().count("\n") >= number:
                return file.parent
        time.sleep(0.1)
    pytest.fail(f"no {number} rows below {directory}")


def _assert_history_is_complete(run, workdir):
    """Every row of the run's own record is at the server, once and with the same values, and so is the end."""
    logged = [row for row in run.history if "epoch" in row]
    rows = runs.rows(workdir, timings=True)
    assert len(logged) == len(rows) > 0
    for ours, theirs in zip(rows, logged, strict=True):
        assert {name: theirs.get(name) for name in ours} == ours
    assert [row["_step"] for row in run.history] == list(range(len(run.history)))
    assert run.finished


def test_the_head_sweep_is_registered_with_every_point(server, clients):
    path = registered(clients.wandb("sweep", "sweeps/heads.yaml"))
    ((sweep_id, sweep),) = server.sweeps.items()
    assert path == f"tester/eanet-jax/{sweep_id}"
    assert sweep.project == "eanet-jax" and sweep.config["program"] == "main.py"
    points = {tuple(point.values()) for point in sweep.waiting}
    assert len(points) == len(sweep.waiting) == 3 * 5 * 3  # configuration files, heads, seeds
    assert ("configs/vit.py:4x0", 16, 2) in points


def test_a_sweep_run_offline_is_synced_into_it_later(server, clients):
    """The configuration file is a parameter here, as where a sweep compares files."""
    command = (*TOY, "--config.train.epochs=2")
    path = clients.sweep(command, config=["configs/digits.py"], config__model__num_heads=[2])
    text = clients.output(clients.agent(path, WANDB_MODE="offline"))
    ((sweep_id, sweep),) = server.sweeps.items()
    ((run_id, point),) = sweep.points.items()
    assert point == {"config": "configs/digits.py", "config.model.num_heads": 2}
    assert not server.runs, "an offline run has spoken to the server"
    clients.wandb("sync", re.search(r"wandb sync (\S+)", text)[1])
    ((synced_id, run),) = server.runs.items()
    assert (synced_id, run.sweep) == (run_id, sweep_id)
    assert run.config["config"] == "configs/digits.py" and run.config["model"]["num_heads"] == 2
    (workdir,) = (clients.directory / "runs" / sweep_id).iterdir()
    _assert_history_is_complete(run, workdir)
    assert run.exit_code == 0


def test_seeds_and_a_grid_are_logged_with_their_means_and_by_themselves(server, clients):
    own = ("--config.num_seeds=2", "--config.vary.learning_rate=(0.001,0.01)", "--config.train.epochs=1")
    process = clients.start("main.py", DIGITS, *TOY, *own, "--config.wandb.mode=online", "--workdir=run")
    assert "best of 2, learning_rate=0.01, mean of 2: loss" in clients.output(process)
    (run,) = server.runs.values()
    _assert_history_is_complete(run, clients.directory / "run")
    point = "learning_rate=0.01"
    assert {f"{point}/val/accuracy{end}" for end in ("", "_std", "_low", "_high")} <= run.history[0].keys()
    assert f"{point}/seed_1/val/accuracy" in run.history[0]


@pytest.mark.parametrize("agent", [{}, AGENTS_CHILD], ids=["alone", "in a sweep"])
def test_the_same_command_goes_on_with_the_same_run(server, clients, agent):
    epochs = 100
    command = ("main.py", DIGITS, *TOY, f"--config.train.epochs={epochs}", "--config.wandb.mode=online")
    process = clients.start(*command, **agent)
    workdir = _await_rows(clients.directory / "runs", 3)
    os.killpg(process.pid, signal.SIGTERM)  # as batch systems and terminals do: to the whole group
    text = clients.output(process)
    assert "SIGTERM at step" in text
    ((run_id, run),) = server.runs.items()
    assert process.returncode == run.exit_code == 128 + signal.SIGTERM
    _assert_history_is_complete(run, workdir)
    interrupted = len(runs.rows(workdir, timings=True))
    assert interrupted < epochs

    process = clients.start(*command, **agent)
    text = clients.output(process)
    assert process.returncode == 0 and "Ignoring" not in text, text
    assert "Going on from step" in text
    assert list(server.runs) == [run_id]
    _assert_history_is_complete(run, workdir)
    assert [row["epoch"] for row in run.history if "epoch" in row] == list(range(1, epochs + 1))
    assert run.exit_code == 0


def test_two_agents_run_every_point_of_a_grid_once(server, clients):
    heads, seeds = [2, 4], [0, 1]
    path = clients.sweep((DIGITS, *TOY, "--config.train.epochs=2"), config__model__num_heads=heads, config__seed=seeds)
    agents = [clients.agent(path), clients.agent(path)]
    for text in map(clients.output, agents):
        assert "Agent received command: run" in text and "Agent received command: exit" in text
        assert "Ignoring" not in text, "W&B ignores what a sweep's child may not choose"
    ((sweep_id, sweep),) = server.sweeps.items()
    points = [(point["config.model.num_heads"], point["config.seed"]) for point in sweep.points.values()]
    assert sorted(points) == [(number, seed) for number in heads for seed in seeds]
    assert server.runs.keys() == sweep.points.keys()
    workdirs = set()
    for run_id, (number, seed) in zip(sweep.points, points, strict=True):
        run = server.runs[run_id]
        assert (run.config["config.model.num_heads"], run.config["config.seed"]) == (number, seed)
        assert (run.config["model"]["num_heads"], run.config["seed"]) == (number, seed)
        assert re.fullmatch(rf"digits-external-h{number}-[0-9a-f]{{8}}-s{seed}", run.display_name)
        assert run.group == run.display_name.removesuffix(f"-s{seed}")
        assert (run.sweep, run.project, run.job_type) == (sweep_id, "eanet-jax", "train")
        assert run.tags == ("digits", "external")
        (workdir,) = (clients.directory / "runs" / sweep_id).glob(f"digits-*-{run_id}")
        workdirs.add(workdir)
        _assert_history_is_complete(run, workdir)
        assert run.exit_code == 0
        results = json.loads((workdir / "results.json").read_text())
        assert {name: run.summary[name] for name in results} == results  # the sweep's metric among them
        assert any(name.startswith("media/images/curves") for name in run.files)
    assert set((clients.directory / "runs").glob("*/*")) == workdirs
    assert len({run.group for run in server.runs.values()}) == len(heads)
    _assert_the_same_without_wandb(clients, workdirs)


def _assert_the_same_without_wandb(clients, workdirs):
    """The same file through eanet.sweep gives the same files and, times apart, the same numbers in them."""
    process = clients.start("-m", "eanet.sweep", "sweep.yaml", "--jobs=2", "--", "--config.wandb.mode=offline")
    text = clients.output(process)
    assert process.returncode == 0, text
    own = {}
    for workdir in (clients.directory / "runs" / "sweep").iterdir():
        config = json.loads((workdir / "config.json").read_text())
        own[config["model"]["num_heads"], config["seed"]] = workdir
    assert len(own) == len(workdirs)
    for theirs in workdirs:
        config = json.loads((theirs / "config.json").read_text())
        ours = own[config["model"]["num_heads"], config["seed"]]
        assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()} | {"output.log"}
        for ours_row, theirs_row in zip(runs.rows(ours, timings=True), runs.rows(theirs, timings=True), strict=True):
            ours_row.pop("train/images_per_second"), theirs_row.pop("train/images_per_second")
            assert ours_row == theirs_row
        with np.load(ours / "predictions.npz") as a, np.load(theirs / "predictions.npz") as b:
            assert all(np.array_equal(a[name], b[name]) for name in b.files)


def test_a_run_that_the_server_stops_keeps_its_rows(server, clients):
    path = clients.sweep((DIGITS, *TOY, "--config.train.epochs=5000"), config__model__num_heads=[2])
    agent = clients.agent(path)
    workdir = _await_rows(clients.directory / "runs", 3)
    (run_id,) = server.runs
    server.stopping.add(run_id)
    text = clients.output(agent)
    assert "SIGTERM at step" in text and "Ignoring" not in text
    run = server.runs[run_id]
    _assert_history_is_complete(run, workdir)
    assert run.exit_code == 128 + signal.SIGTERM
