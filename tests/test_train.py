"""Whole runs: the record they leave, resume, interruption, and what must not be written."""

import dataclasses
import json
import math
import re
import signal

import jax
import numpy as np
import pytest

from eanet import train
from eanet.compare import finished_run
from eanet.data import datasets as data
from eanet.data import guards
from eanet.errors import UserError
from eanet.run import clock
from eanet.run.checkpoint import Checkpoints
from eanet.training import sharding
from eanet.training.trainer import Trainer
from helpers.tiny import tiny_config


def _rows(workdir):
    """Metrics without the timings, which are no function of the configuration."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "train/images_per_second"} for row in rows]


def _params(workdir, config):
    """The parameters of the newest checkpoint."""
    trainer = Trainer(config, data.load(config.data), sharding.make_mesh(config.num_seeds))
    state, _ = Checkpoints(workdir / "checkpoints", read_only=True).restore(trainer.shapes, config.to_dict())
    return jax.tree.leaves(state)


@pytest.mark.parametrize("seeds", [1, 3])
def test_predictions_know_the_superclasses_of_a_data_set_that_has_them(tmp_path, monkeypatch, seeds):
    digits, of = data.load(tiny_config().data), (0, 1) * 5
    known = dataclasses.replace(digits, superclass_names=("even", "odd"), superclass_of=of)
    monkeypatch.setattr(data, "load", lambda config: known)
    train.train(tiny_config(num_seeds=seeds), tmp_path)
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert arrays["superclass_name"].tolist() == ["even", "odd"] and arrays["superclass_of"].tolist() == list(of)
        assert arrays["predicted"].shape == (seeds, 360)[seeds == 1 :]
    runs, _ = finished_run.find_runs([tmp_path])
    assert [run.superclass_names for run in runs] == [("even", "odd")] * seeds
    assert all(np.mean(run.predicted == run.labels) == run.results["test/accuracy"] for run in runs)


def test_a_run_leaves_a_complete_record(finished):
    workdir, results = finished
    names = {path.name for path in workdir.iterdir()}
    assert names == {
        *("config.json", "environment.json", "metrics.jsonl", "results.json", "predictions.npz"),
        *("curves.png", "data.json", "checkpoints", ".lock"),
    }
    assert json.loads((workdir / "config.json").read_text()) == json.loads(json.dumps(tiny_config().to_dict()))
    environment = json.loads((workdir / "environment.json").read_text())
    assert environment["versions"]["jax"] == jax.__version__ and environment["devices"]
    assert set(environment["git"]) == {"commit", "clean"} and environment["command"]
    assert environment["chosen"] == {"microbatch": 32, "evaluation_batch": 64, "networks_at_once": 1}
    rows = _rows(workdir)
    assert [row["step"] for row in rows] == [4, 8] and [row["epoch"] for row in rows] == [1.0, 2.0]
    expected = {f"{split}/{name}" for split in ("train", "val") for name in ("loss", "accuracy", "top5_accuracy")}
    assert expected | {"train/learning_rate", "train/grad_norm", "val/accuracy_best"} <= set(rows[0])
    assert json.loads((workdir / "results.json").read_text()) == results
    for name in ("test/loss", "test/accuracy", "test/top5_accuracy", "val/accuracy_best", "parameters"):
        assert np.isfinite(results[name])
    assert min(results[f"seconds_{part}"] for part in ("compile", "train", "evaluate")) > 0
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_predictions_agree_with_the_results(finished):
    workdir, results = finished
    with np.load(workdir / "predictions.npz", allow_pickle=False) as predictions:
        right = predictions["predicted"] == predictions["label"]
        assert len(right) == 360
        assert right.mean() == pytest.approx(results["test/accuracy"])
        assert predictions["loss"].mean(dtype=np.float64) == pytest.approx(results["test/loss"])


def test_a_finished_run_says_so_and_is_left_alone(finished, capsys):
    workdir, results = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    assert train.train(tiny_config(), workdir) == results
    assert "finished" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}


def test_another_configuration_never_overwrites_a_run(finished):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    with pytest.raises(UserError, match=r"config\.seed is 0 there and 1 here"):
        train.train(tiny_config(seed=1), workdir)
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}


def test_the_same_configuration_gives_the_same_bits_and_another_seed_does_not(finished, tmp_path):
    workdir, _ = finished
    train.train(tiny_config(), tmp_path / "again")
    train.train(tiny_config(seed=1), tmp_path / "other")
    assert _rows(tmp_path / "again") == _rows(workdir)
    assert _rows(tmp_path / "other") != _rows(workdir)


class _InterruptAt(train.Interruption):
    """Behave as if a signal had come before the n-th look."""

    looks = 0
    at = 3

    @property
    def received(self):
        type(self).looks += 1
        return signal.SIGTERM if type(self).looks >= self.at else None

    @received.setter
    def received(self, value):
        pass


@pytest.mark.parametrize("at", [5, 9, *(pytest.param(at, marks=pytest.mark.system) for at in (2, 8))])
def test_an_interrupted_run_goes_on_to_the_same_bits(finished, tmp_path, monkeypatch, at):
    """Interrupted within an epoch (steps 2 and 5 of 4 + 4), with rows that later vanish or stay, or at the end.

    The ninth look comes after the last step's checkpoint, before the test.
    """
    workdir, _ = finished
    monkeypatch.setattr(clock, "_CALL_SECONDS", 0.0)  # a look at every step
    monkeypatch.setattr(_InterruptAt, "looks", 0)
    monkeypatch.setattr(_InterruptAt, "at", at)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(train, "Interruption", _InterruptAt)
        train.train(tiny_config(), tmp_path)
    assert stop.value.code == 128 + signal.SIGTERM
    assert not (tmp_path / "results.json").exists()
    assert (tmp_path / "checkpoints" / str(min(at, 8))).is_dir()
    train.train(tiny_config(), tmp_path)
    assert _rows(tmp_path) == _rows(workdir)
    for ours, theirs in zip(_params(tmp_path, tiny_config()), _params(workdir, tiny_config()), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_best_epoch_is_remembered_through_an_interruption(tmp_path, monkeypatch):
    # With which the second epoch is worse than the first; its loss is wild.
    config = tiny_config(model__attention="none", optimizer__learning_rate=1.0, guard__loss=1e38)
    monkeypatch.setattr(clock, "_CALL_SECONDS", 0.0)
    monkeypatch.setattr(_InterruptAt, "looks", 0)
    monkeypatch.setattr(_InterruptAt, "at", 5)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(train, "Interruption", _InterruptAt)
        train.train(config, tmp_path)
    results = train.train(config, tmp_path)
    first, second = _rows(tmp_path)
    assert first["val/accuracy"] > second["val/accuracy"]
    assert (results["val/accuracy_best"], results["val/epoch_best"]) == (first["val/accuracy"], 1)


def test_a_crash_after_a_row_leaves_no_row_twice(finished, tmp_path, monkeypatch):
    workdir, _ = finished

    def crash(self):
        if self._clock.step == 8:
            raise RuntimeError("power cut")
        save(self)

    save = train.Run._save
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(train.Run, "_save", crash)
        train.train(tiny_config(), tmp_path)
    assert [row["step"] for row in _rows(tmp_path)] == [4, 8]
    assert _rows(tmp_path) == _rows(workdir)
    train.train(tiny_config(), tmp_path)
    assert _rows(tmp_path) == _rows(workdir)


def test_rows_stand_at_multiples_of_steps_per_call_and_end_with_the_epoch(finished, tmp_path):
    workdir, _ = finished
    train.train(tiny_config(train__steps_per_call=3), tmp_path)
    rows = _rows(tmp_path)
    assert [row["step"] for row in rows] == [3, 4, 7, 8]
    assert ["val/loss" in row for row in rows] == [False, True, False, True]
    assert rows[1::2] == _rows(workdir)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(tmp_path, monkeypatch):
    load = data.load
    monkeypatch.setattr(guards, "check_input", lambda *arguments: [])  # it would notice first
    monkeypatch.setattr(data, "load", lambda config: dataclasses.replace(load(config), mean=(float("nan"),)))
    with pytest.raises(UserError, match="not finite at step 0 ") as stop:
        train.train(tiny_config(), tmp_path)
    assert stop.value.exit_code == 1
    assert not (tmp_path / "results.json").exists()
    assert not any((tmp_path / "checkpoints").iterdir())


def test_an_exploding_loss_is_no_result(tmp_path):
    with pytest.raises(
        UserError, match=r"loss [\d.e+]+ is far above .*config\.guard\.loss\) at step [1-7] \(learning"
    ) as stop:
        train.train(tiny_config(optimizer__learning_rate=500.0, optimizer__schedule="constant"), tmp_path)
    assert stop.value.exit_code == 1 and "learning rate 500, gradient norm" in str(stop.value)
    assert not (tmp_path / "results.json").exists()


def test_a_validation_loss_that_explodes_is_a_divergence_too(tmp_path):
    config = tiny_config(
        model__attention="none", optimizer__learning_rate=500.0, optimizer__schedule="constant",
        data__train_limit=32, train__epochs=1,
    )  # fmt: skip
    with pytest.raises(
        UserError, match=r"validation loss [\d.e+]+ is far above .* after step 1; there is no checkpoint"
    ):
        train.train(config, tmp_path)


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(tmp_path, monkeypatch):
    """Weights grow thirtyfold a step until float32 has no number for them; again, step by step, it is the same step."""
    config = tiny_config(
        model__attention="none", optimizer__learning_rate=0.3, optimizer__weight_decay=100.0, train__epochs=20
    )
    config.guard.loss = 1e38  # which would notice sooner
    says = (
        r"at step (\d+) \(learning rate ([\d.]+), gradient norm (nan|inf)\); the last good checkpoint is kept, of step "
    )
    steps = []
    for pace in (1e9, 0.0):
        monkeypatch.setattr(clock, "_CALL_SECONDS", pace)
        with pytest.raises(UserError, match=says) as stop:
            train.train(config, tmp_path)
        assert stop.value.exit_code == 1
        found = re.search(says, str(stop.value))
        steps.append(int(found[1]))
        cosine = 0.3 * (1 + math.cos(math.pi * steps[-1] / 80)) / 2
        assert float(found[2]) == pytest.approx(cosine, rel=1e-4)  # of that step, however long the call was
        saved = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
        assert max(saved) == steps[-1] // 4 * 4 >= 4  # the end of the epoch before
        assert all(np.isfinite(leaf).all() for leaf in _params(tmp_path, config))
        assert _rows(tmp_path)[-1]["step"] == max(saved)
    assert steps[0] == steps[1]


def test_a_validation_loss_that_is_not_finite_is_a_divergence_too(tmp_path):
    """The last step of the epoch makes weights with which the loss is no number; nothing is recorded as good."""
    config = tiny_config(
        model__attention="none", optimizer__learning_rate=1000.0, optimizer__weight_decay=1000.0,
        optimizer__schedule="constant", data__train_limit=64, train__epochs=1, guard__loss=1e38,
    )  # fmt: skip
    with pytest.raises(UserError, match="validation loss is not finite after step 2; there is no checkpoint") as stop:
        train.train(config, tmp_path)
    assert stop.value.exit_code == 1
    assert not (tmp_path / "results.json").exists() and not any((tmp_path / "checkpoints").iterdir())
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train__epochs": 0}, r"config\.train\.epochs=0; accepted"),
        ({"model__patch_size": 3}, r"config\.model\.patch_size=3 does not divide the 8×8 images"),
        ({"train__batch_size": 101}, r"config\.train\.batch_size=101 is larger than the training set"),
        ({"data__train_limit": 5000}, r"config\.data\.train_limit=5000 is more than the 1149"),
        ({"data__name": "no_such_set"}, r"config\.data\.name=no_such_set"),
        ({"data__validation_fraction": 0.9999}, r"leaves a split .* empty"),
    ],
)
def test_bad_input_writes_nothing(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message) as stop:
        train.train(tiny_config(**overrides), tmp_path / "run")
    assert stop.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        train.train(tiny_config(), tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_determinism_on_a_gpu_is_asked_of_the_compiler_by_a_name_that_it_knows(monkeypatch):
    """XLA takes the option on any platform, and refuses one that it does not know."""
    dataset = data.load(tiny_config().data)
    groups = {}
    with monkeypatch.context() as patch:
        patch.setattr(sharding, "platform", lambda mesh: "gpu")
        for wanted in (True, False):
            groups[wanted] = Trainer(tiny_config(deterministic=wanted), dataset, sharding.make_mesh())
    asked = []
    compile_it = jax.stages.Lowered.compile
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self, o=None: asked.append(o) or compile_it(self, o))
    for wanted in (True, False):
        groups[wanted].init()
    assert asked == [{"xla_gpu_deterministic_ops": True}, None]
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(lambda x: x).lower(1.0).compile({"xla_gpu_deterministic_op": True})
