"""A run begins with the weights of a file of the Keras example (config.init_from), and sees what Keras sees."""

import dataclasses
import hashlib
import json
import re

import h5py
import jax
import keras
import numpy as np
import pytest

from benchmarks.peers.keras_model import build
from benchmarks.sizes import Sizes
from eanet import evaluate, train
from eanet.data import augmentation as augment
from eanet.data import datasets as data
from eanet.data.channels import describe_channels
from eanet.data.datasets import Dataset, Split
from eanet.model.vision_transformer import build_model
from eanet.run.initial_weights import read_initial_weights
from eanet.training import metrics
from helpers.keras_reference import keras_ranks, randomize  # noqa: F401
from helpers.runs import rows
from helpers.tiny import refused, tiny_config

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("keras_ranks")]

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
    described = {name: tuple(value) for name, value in describe_channels(train.images).items()}
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


def _without_statistics(path):
    with h5py.File(path, "a") as file:
        found = [name for name in _groups(file) if name.rpartition("/")[2] == "normalization"]
        del file[found[0]]


def _groups(file):
    names = []
    file.visit(names.append)
    return names


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
def test_a_keras_file_that_does_not_fit_isrefused(kind, says, tmp_path, monkeypatch):
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
    assert re.search(says, refused(config, tmp_path / "run"))
