"""A run begins with the weights of another run (config.init_from)."""

import dataclasses
import json
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from eanet import evaluate, train
from eanet.data import augmentation as augment
from eanet.data import datasets as data
from eanet.errors import UserError
from eanet.model.input_normalization import renormalized
from eanet.model.vision_transformer import patches
from eanet.run import clock
from eanet.run.checkpoint import Checkpoints
from eanet.run.initial_weights import read_initial_weights
from eanet.run.record import Record
from eanet.training import members, sharding
from eanet.training.trainer import Trainer
from helpers.runs import rows
from helpers.tiny import refused, tiny_config


@pytest.fixture
def source(finished):
    """A finished run of one network, and its rows."""
    return finished[0], rows(finished[0])


def test_training_sees_the_same_through_another_normalisation():
    random, key = np.random.default_rng(0), jax.random.key(0)
    images = random.integers((0, 40, 100), (120, 200, 256), (6, 8, 8, 3), dtype=np.uint8)
    strengths = {"flip": True, "rotation": 0.1, "contrast": 0.3, "zoom": 0.2}
    before = (100.0, 60.0, 150.0), (20.0, 70.0, 5.0)
    after = (60.0, 120.0, 178.0), (35.0, 46.0, 45.0)
    flat = {"patch_embedding/kernel": random.normal(size=(12, 7)), "patch_embedding/bias": random.normal(size=7)}

    def embedded(statistics, flat):
        preprocessing = augment.Preprocessing(*statistics, **strengths)
        inputs = jax.jit(lambda x: augment.training_input(key, x, preprocessing))(images)
        return patches(inputs, 2) @ flat["patch_embedding/kernel"] + flat["patch_embedding/bias"][None, None]

    expected = embedded(before, flat)
    assert np.abs(embedded(after, flat) - expected).max() > 1
    np.testing.assert_allclose(embedded(after, renormalized(flat, before, after)), expected, rtol=1e-4, atol=1e-3)


def test_evaluation_of_a_runs_weights_repeats_the_runs(source, tmp_path, monkeypatch, capsys):
    workdir, rows_there = source
    monkeypatch.chdir(tmp_path)
    expected = evaluate.evaluate(workdir, "test")
    found = evaluate.evaluate_weights(tiny_config(init_from=str(workdir)), "test")
    assert {"weights": str(workdir)} | {name: x for name, x in expected.items() if name != "step"} == found
    for step, row in zip((4, 8), rows_there, strict=True):
        config = tiny_config(init_from=str(workdir / "checkpoints" / str(step)))
        found = evaluate.evaluate_weights(config, "validation")
        assert found["loss"] == pytest.approx(row["val/loss"], rel=1e-6)
    evaluate._print(found)
    assert f"weights of {workdir}/checkpoints/8\n" in capsys.readouterr().out
    assert not any(tmp_path.iterdir())


class _InterruptAt2(train.Interruption):
    """Behave as if a signal had come before the second look."""

    looks = 0

    @property
    def received(self):
        type(self).looks += 1
        return signal.SIGTERM if type(self).looks >= 2 else None

    @received.setter
    def received(self, value):
        pass


def test_a_run_from_a_run_goes_on_to_the_same_bits_when_that_is_gone(source, tmp_path, monkeypatch):
    workdir, rows_there = source
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    config = tiny_config(init_from=str(copy), optimizer__learning_rate=1e-4, train__epochs=1)
    train.train(config, tmp_path / "whole")
    (row,) = rows(tmp_path / "whole")
    before, reached = (there["val/loss"] for there in rows_there)
    assert abs(row["val/loss"] - reached) < 0.2 * abs(before - reached)
    note = json.loads((tmp_path / "whole" / "initial_weights.json").read_text())
    assert (note["source"], note["checkpoint"]) == (str(copy), 8)
    stored = json.loads((copy / "checkpoints/8/extra/metadata").read_text())
    assert note["sha256"] == stored["values"]["state"]

    monkeypatch.setattr(clock, "_CALL_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(train, "Interruption", _InterruptAt2)
        train.train(config, tmp_path / "resumed")
    shutil.rmtree(copy)
    train.train(config, tmp_path / "resumed")
    assert rows(tmp_path / "resumed") == rows(tmp_path / "whole")
    with pytest.raises(UserError, match="no such file or directory"):
        train.train(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_weights_of_a_run_on_another_data_set_are_brought_to_its_normalisation(source, monkeypatch):
    workdir, _ = source
    load = data.load

    def load_other(config):
        loaded = load(tiny_config().data)
        return loaded if config.name == "digits" else dataclasses.replace(loaded, mean=(1.0,), deviation=(9.0,))

    monkeypatch.setattr(data, "load", load_other)
    expected = evaluate.evaluate(workdir, "test")
    found = evaluate.evaluate_weights(tiny_config(init_from=str(workdir), data__name="other"), "test")
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def _write_checkpoint(workdir, config, dataset, diverged):
    """Leave what a run of this configuration does before its first step."""
    fields = config.to_dict()
    trainer = Trainer(config, dataset, sharding.make_mesh(len(members.members_from_config(fields))))
    Record(workdir).open(fields)
    Record(workdir).write("config.json", fields)
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(trainer.init(), 0, fields, {"tally": {"diverged": diverged}})
    checkpoints.close()


def test_members_begin_with_their_own_weights_or_all_with_those_of_one_network(source, tmp_path):
    dataset, run = data.load(tiny_config().data), {"init_from": str(tmp_path / "three")}
    _write_checkpoint(tmp_path / "three", tiny_config(seed=5, num_seeds=3), dataset, [-1, -1, 4])

    def kernels(**overrides):
        return read_initial_weights(tiny_config(**run, **overrides), dataset).params["classifier"]["kernel"]

    both = kernels(seed=5, num_seeds=2)
    assert both.shape == (2, 16, 10) and np.abs(both[0] - both[1]).max() > 0.01
    np.testing.assert_array_equal(kernels(seed=6), both[1:])
    for overrides, says in (
        ({"seed": 7}, r"its seed_7 diverged at step 4"),
        ({"seed": 8}, r"its run has no seed_8, but seed_5, seed_6, seed_7; accepted"),
        ({"seed": 5, "vary__learning_rate": (0.01,)}, r"its run has no learning_rate=0\.01/seed_5, but"),
    ):
        with pytest.raises(UserError, match=says):
            kernels(**overrides)

    config = tiny_config(init_from=str(source[0]), num_seeds=2, vary__learning_rate=(0.01, 0.02))
    params = read_initial_weights(config, dataset).params
    trainer = Trainer(config, dataset, sharding.make_mesh(4))
    state = trainer.init(params)
    assert len(members.members_from_config(config.to_dict())) == 4
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    for leaf in jax.tree.leaves(params):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), trainer.shapes)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), state)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"model__dim": 32}, r"block_0/attention/expand/bias \(64,\); .* has .*expand/bias \(128,\)"),
        (
            {"model__attention": "self"},
            r"attention/expand/bias .*attention=self.* has no block_0/attention/expand/bias",
        ),
        ({"model__depth": 2}, "its network has no block_1/.* has block_1/"),
        ({"model__patch_size": 2}, r"patch_embedding/kernel \(16, 16\); .* \(4, 16\)"),
    ],
)
def test_a_run_of_another_network_is_refused_with_the_first_parameter_that_differs(source, tmp_path, overrides, says):
    assert re.search(says, refused(tiny_config(init_from=str(source[0]), **overrides), tmp_path / "run"))


def test_a_runs_damaged_checkpoints_are_refused_and_left(source, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(source[0], copy)
    for step in ("4", "8"):
        shutil.rmtree(copy / "checkpoints" / step / "state")
    before = sorted(copy.rglob("*"))
    assert "can be used (8: " in refused(tiny_config(init_from=str(copy)), tmp_path / "run")
    assert "can be used (4: " in refused(tiny_config(init_from=str(copy / "checkpoints" / "4")), tmp_path / "run")
    assert sorted(copy.rglob("*")) == before
