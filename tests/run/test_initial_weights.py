"""A run begins with the weights of a file of the Keras example or of another run (config.init_from)."""

import dataclasses
import hashlib
import json
import re
import shutil
import signal

import h5py
import jax
import keras
import numpy as np
import pytest

from benchmarks.keras_model import build
from benchmarks.sizes import Sizes
from eanet import evaluate, train
from eanet.data import augmentation as augment
from eanet.data import datasets as data
from eanet.data.datasets import Dataset, Split
from eanet.errors import UserError
from eanet.model.input_normalization import renormalized
from eanet.model.vision_transformer import build_model, patches
from eanet.run import clock
from eanet.run.checkpoint import Checkpoints
from eanet.run.initial_weights import read_initial_weights
from eanet.run.record import Record
from eanet.training import members, metrics, sharding
from eanet.training.trainer import Trainer
from helpers.keras_reference import keras_ranks, randomize  # noqa: F401
from helpers.runs import rows
from helpers.tiny import tiny_config

SMALL = {"side": 8, "width": 16, "hidden": 24, "heads": 2, "coefficient": 2, "depth": 1, "classes": 5}
EXTERNAL, SELF = Sizes("external", **SMALL), Sizes("self", **SMALL)
STILL = {"optimizer__learning_rate": 1e-12, "optimizer__weight_decay": 0.0, "train__epochs": 1}  # parameters stay


def _images(count, seed, low=(0, 40, 100), high=(120, 200, 256)):
    """Return uint8 images whose channels have statistics of their own."""
    return np.random.default_rng(seed).integers(low, high, (count, 8, 8, 3), dtype=np.uint8)


def _dataset():
    """Return a data set of three channels whose statistics are not those that the Keras models are adapted to."""

    def split(count, seed):
        labels = np.random.default_rng(seed).integers(5, size=count).astype(np.int32)
        return Split(_images(count, seed), labels)

    train, validation, test = split(64, 1), split(32, 2), split(32, 3)
    described = {name: tuple(value) for name, value in data._describe(train.images).items()}
    return Dataset(train, validation, test, class_names=tuple("abcde"), **described)


def _source(sizes, adapt_to=None):
    """Return a Keras model with random weights that takes raw images and gives logits."""
    adapt_to = _images(50, 9, (100, 0, 30), (256, 80, 180)) if adapt_to is None else adapt_to
    return randomize(build(sizes, activation=None, adapt_to=adapt_to.astype(np.float32)), scale=0.3)


def _logits(model, images):
    """Return what a Keras model makes of raw images."""
    return np.asarray(jax.jit(lambda x: model(x))(images.astype(np.float32)))  # as one program, not by its operations


def _config(sizes, path, **overrides):
    """Return a configuration of the same sizes, without dropout and augmentation."""
    fields = {"attention": sizes.attention, "patch_size": sizes.patch, "dim": sizes.width, "mlp_dim": sizes.hidden}
    fields |= {"num_heads": sizes.heads, "head_dim": sizes.width, "dim_coefficient": sizes.coefficient}
    fields |= {f"{place}_dropout": 0.0 for place in ("attention", "projection", "mlp")} | {"depth": sizes.depth}
    off = {"flip": False, "rotation": 0.0, "contrast": 0.0, "zoom": 0.0}
    made = {f"model__{name}": value for name, value in fields.items()}
    made |= {f"augment__{name}": value for name, value in off.items()}
    return tiny_config(init_from=str(path), data__train_limit=0, **(made | overrides))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished run of one network, and its rows."""
    workdir = tmp_path_factory.mktemp("source")
    train.train(tiny_config(), workdir)
    return workdir, rows(workdir)


@pytest.mark.usefixtures("keras_ranks")
@pytest.mark.parametrize(("sizes", "suffix"), [(EXTERNAL, ".keras"), (SELF, ".weights.h5")], ids=["external", "self"])
def test_keras_and_this_network_have_the_same_logits_of_raw_images(sizes, suffix, tmp_path):
    theirs, path, dataset = _source(sizes), tmp_path / f"eanet{suffix}", _dataset()
    theirs.save(path) if suffix == ".keras" else theirs.save_weights(path)
    config = _config(sizes, path)
    params = jax.tree.map(lambda x: x[0], read_initial_weights(config, dataset).params)
    images = dataset.test.images
    inputs = augment.evaluation_input(images, augment.Preprocessing(dataset.mean, dataset.deviation))
    ours = jax.jit(build_model(config.model, sizes.classes).apply)({"params": params}, inputs)
    expected = _logits(theirs, images)
    assert np.ptp(expected, axis=0).min() > 0.1
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_training_sees_the_same_through_another_normalisation():
    images, key = _images(6, 0), jax.random.key(0)
    strengths = {"flip": True, "rotation": 0.1, "contrast": 0.3, "zoom": 0.2}
    before = (100.0, 60.0, 150.0), (20.0, 70.0, 5.0)
    after = (60.0, 120.0, 178.0), (35.0, 46.0, 45.0)
    random = np.random.default_rng(0)
    flat = {"patch_embedding/kernel": random.normal(size=(12, 7)), "patch_embedding/bias": random.normal(size=7)}

    def embedded(statistics, flat):
        preprocessing = augment.Preprocessing(*statistics, **strengths)
        inputs = jax.jit(lambda x: augment.training_input(key, x, preprocessing))(images)
        return patches(inputs, 2) @ flat["patch_embedding/kernel"] + flat["patch_embedding/bias"][None, None]

    expected = embedded(before, flat)
    assert np.abs(embedded(after, flat) - expected).max() > 1
    np.testing.assert_allclose(embedded(after, renormalized(flat, before, after)), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("keras_ranks")
def test_training_and_evaluation_begin_with_the_weights_of_a_keras_file(tmp_path, monkeypatch):
    theirs, path, dataset = _source(EXTERNAL), tmp_path / "eanet.keras", _dataset()
    theirs.save(path)
    monkeypatch.setattr(data, "load", lambda config: dataset)

    def loss(split):
        return float(np.mean(metrics.per_example(_logits(theirs, split.images), split.labels, 0.1)["loss"]))

    config = _config(EXTERNAL, path, **STILL)
    results = train.train(config, tmp_path / "run")
    (row,) = rows(tmp_path / "run")
    assert row["train/loss"] == pytest.approx(loss(dataset.train), rel=1e-4)
    assert row["val/loss"] == pytest.approx(loss(dataset.validation), rel=1e-4)
    evaluated = evaluate.evaluate_weights(config, "test")
    assert (evaluated["examples"], evaluated["weights"]) == (32, str(path))
    for name in metrics.NAMES:
        assert evaluated[name] == pytest.approx(results[f"test/{name}"], rel=1e-5)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    note = json.loads((tmp_path / "run" / "initial_weights.json").read_text())
    assert note == {"source": str(path), "sha256": digest}


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
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), trainer.shapes())
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), state)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))


def _refused(config, workdir):
    """Return what is said of weights that a run cannot begin with; nothing may have been written."""
    with pytest.raises(UserError) as caught:
        train.train(config, workdir)
    message = str(caught.value)
    assert not workdir.exists() and caught.value.exit_code == 2 and "\n" not in message
    assert message.startswith(f"config.init_from={config.init_from}: ") and "; accepted: a .keras" in message
    return message


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
    assert re.search(says, _refused(tiny_config(init_from=str(source[0]), **overrides), tmp_path / "run"))


def _without_statistics(path):
    with h5py.File(path, "a") as file:
        found = [name for name in _groups(file) if name.rpartition("/")[2] == "normalization"]
        del file[found[0]]


def _groups(file):
    names = []
    file.visit(names.append)
    return names


@pytest.mark.usefixtures("keras_ranks")
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("right", None),
        ("constants", "no Normalization layer with adapted statistics"),
        ("removed", "no Normalization layer with adapted statistics"),
        ("not adapted", "mean 0, 0, 0 and the deviation 1, 1, 1, .* not adapted, or to images of another scale"),
        ("of 0 to 1", r"deviation 0\.\d+, 0\.\d+, 0\.\d+, .* another scale"),
        ("NaN", "classifier/bias is not finite"),
        ("grey", r"layer normalization has the shapes \(3\) and \(3\); the images have 1 channels"),
        ("classes", r"classifier/bias \(5,\); .* has classifier/bias \(4,\)"),
    ],
)
def test_a_keras_file_that_does_not_fit_is_refused(kind, says, tmp_path, monkeypatch):
    path, dataset, images = tmp_path / "a.weights.h5", _dataset(), _images(20, 9)
    model = build(EXTERNAL) if kind == "constants" else _source(EXTERNAL, images / 255 if "0 to 1" in kind else images)
    if kind == "not adapted":
        layer = next(layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Normalization))
        layer.adapt_mean.assign(np.zeros(3))
        layer.adapt_variance.assign(np.ones(3))
    if kind == "NaN":
        model.layers[-1].bias.assign(np.full(5, np.nan))
    model.save_weights(path)
    if kind == "removed":
        _without_statistics(path)
    if kind == "grey":
        dataset = dataclasses.replace(
            dataset, train=Split(dataset.train.images[..., :1], dataset.train.labels), mean=(99.0,), deviation=(9.0,)
        )
    if kind == "classes":
        dataset = dataclasses.replace(dataset, class_names=tuple("abcd"))
    monkeypatch.setattr(data, "load", lambda config: dataset)
    config = _config(EXTERNAL, path)
    if says is None:
        assert read_initial_weights(config, dataset)
        return
    assert re.search(says, _refused(config, tmp_path / "run"))


def test_a_runs_damaged_checkpoints_are_refused_and_left(source, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(source[0], copy)
    for step in ("4", "8"):
        shutil.rmtree(copy / "checkpoints" / step / "state")
    before = sorted(copy.rglob("*"))
    assert "can be used (8: " in _refused(tiny_config(init_from=str(copy)), tmp_path / "run")
    assert "can be used (4: " in _refused(tiny_config(init_from=str(copy / "checkpoints" / "4")), tmp_path / "run")
    assert sorted(copy.rglob("*")) == before
