"""Weights go from the Keras example's models and files into this project and back, and nothing else comes along."""

import os
import subprocess
import sys
import zipfile

import h5py
import jax
import keras
import numpy as np
import pytest

from benchmarks.peers.keras_model import PatchEmbedding, build
from benchmarks.sizes import Sizes
from eanet.errors import UserError
from eanet.keras_weights import from_keras, to_keras
from helpers.keras_reference import counterpart, keras_ranks, randomize  # noqa: F401

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("keras_ranks")]

SMALL = {"side": 8, "width": 16, "hidden": 24, "heads": 2, "coefficient": 2, "depth": 2, "classes": 5}
EXTERNAL, SELF = Sizes("external", **SMALL), Sizes("self", **SMALL)
ATTENTIONS = pytest.mark.parametrize("sizes", [EXTERNAL, SELF], ids=lambda s: s.attention)


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def images(sizes: Sizes, count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, sizes.side, sizes.side, 3)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@ATTENTIONS
def test_a_file_gives_what_the_model_in_memory_gives(sizes, suffix, tmp_path):
    # All of the example is saved: an adapted normalisation, random layers with their states, and a used optimizer.
    whole = {"adapt_to": images(sizes), "augmented": True} if sizes is EXTERNAL else {}
    model = randomize(build(sizes, **whole))
    model.compile(keras.optimizers.AdamW(), "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / f"example{suffix}"
    model.save(path) if suffix == ".keras" else model.save_weights(path)
    assert_same(from_keras(path), from_keras(model))
    assert_same(from_keras(str(path)), from_keras(model))
    initial = jax.eval_shape(counterpart(sizes).init, jax.random.key(0), images(sizes))["params"]
    assert jax.tree.map(np.shape, from_keras(path)) == jax.tree.map(np.shape, initial)


def test_layers_beyond_the_tenth_keep_their_order(tmp_path):
    # dense_10 sorts before dense_2 as text; equal shapes would hide that, so the values say which layer they are.
    model = build(EXTERNAL)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert len(dense) == 13
    for i, layer in enumerate(dense):
        layer.bias.assign(np.full(layer.bias.shape, i, np.float32))
    model.save_weights(tmp_path / "a.weights.h5")
    params = from_keras(tmp_path / "a.weights.h5")
    for block, first in (("block_0", 0), ("block_1", 6)):
        places = [params[block]["attention"][name] for name in ("expand", "memory_key", "memory_value", "project")]
        for i, place in enumerate([*places, params[block]["mlp_in"], params[block]["mlp_out"]]):
            assert np.all(place["bias"] == first + i)
    assert np.all(params["classifier"]["bias"] == 12)


@ATTENTIONS
def test_weights_come_back_from_here(sizes):
    source, target = randomize(build(sizes), seed=1), randomize(build(sizes), seed=2)
    x = images(sizes)
    assert np.abs(np.asarray(source(x)) - np.asarray(target(x))).max() > 1e-2
    params = jax.jit(counterpart(sizes).init)(jax.random.key(3), x)["params"]
    to_keras(params, target)
    assert_same(from_keras(target), params)
    to_keras(from_keras(source), target)
    np.testing.assert_array_equal(source(x), target(x))


def test_parameters_of_another_architecture_leave_the_model_untouched():
    model = randomize(build(EXTERNAL))
    before = from_keras(model)
    wide = from_keras(randomize(build(Sizes("external", **SMALL | {"classes": 6})), seed=5))
    more = {**from_keras(randomize(build(EXTERNAL), seed=6)), "cls_token": np.zeros(16)}
    for params, message in (
        (wide, r"layer dense_12: classifier/kernel is \(16, 6\), .* \(16, 5\)"),
        (from_keras(build(SELF)), r"layer dense: .* no block_0/attention/expand/kernel"),
        (more, r"no layer for cls_token"),
    ):
        with pytest.raises(ValueError, match=message):
            to_keras(params, model)
        assert_same(from_keras(model), before)


def wrong(change: str) -> keras.Model:
    """Build a network that is almost the example's."""
    inputs = keras.Input((16, 12))
    x = keras.layers.Dense(16)(inputs) if change == "positions" else PatchEmbedding(16, 16)(inputs)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Dense(32)(x)
    x = keras.ops.reshape(x, (-1, 16, 4, 8))
    x = keras.layers.Dense(6)(x)
    x = keras.layers.Dense(8, use_bias=change != "bias")(keras.layers.Dense(7)(x) if change == "memory" else x)
    x = keras.layers.Dense(16)(keras.ops.reshape(x, (-1, 16, 32)))
    x = keras.layers.BatchNormalization(name="batch")(x) if change == "batch norm" else x
    x = x if change == "norm" else keras.layers.LayerNormalization()(x)
    x = keras.layers.Dense(16)(keras.layers.Dense(20)(x))
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("positions", r"layer patch_embedding/proj .* is missing"),
        (
            "memory",
            r"layer dense_2 \(block_0/attention/memory_value/kernel .*\(6, 7\) and \(7\); expected \(6, 8\) and \(8\)",
        ),
        ("bias", r"layer dense_2 \(block_0/attention/memory_value/kernel .* \(6, 8\); expected \(6, 8\) and \(8\)"),
        ("norm", r"layer layer_normalization_1 \(block_0/mlp_norm/scale .* is missing"),
        ("batch norm", r"layer batch\w* is not part of"),
        ("nothing", None),
    ],
)
@pytest.mark.parametrize("in_file", [False, True], ids=["memory", "file"])
def test_a_wrong_architecture_names_its_first_layer_that_does_not_fit(change, message, in_file, tmp_path):
    source = wrong(change)
    if in_file:
        source.save_weights(tmp_path / "a.weights.h5")
        source = tmp_path / "a.weights.h5"
    if message is None:
        assert set(from_keras(source)) == {"patch_embedding", "position_embedding", "block_0", "classifier"}
        return
    with pytest.raises(ValueError, match=message):
        from_keras(source)


def test_a_lambda_in_a_file_never_runs(tmp_path):
    marker, path = str(tmp_path / "marker"), tmp_path / "a.keras"
    model = build(Sizes("self", **SMALL | {"depth": 1}))
    evil = keras.layers.Lambda(lambda x: (__import__("pathlib").Path(marker).touch(), x)[1])
    model = keras.Model(model.inputs, evil(model.output))
    model.save(path)
    os.remove(marker)
    params = from_keras(path)
    assert not os.path.exists(marker)
    assert_same(params, from_keras(model))
    # The file really is what it is taken for: Keras, told to trust it, runs the function.
    custom = {cls.__name__: cls for cls in {type(layer) for layer in model.layers}}
    keras.models.load_model(path, custom_objects=custom, safe_mode=False)
    assert os.path.exists(marker)


def test_links_out_of_a_file_are_refused(tmp_path):
    build(EXTERNAL).save_weights(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other["bias"] = np.zeros(5, np.float32)
    with h5py.File(tmp_path / "a.weights.h5", "a") as file:
        del file["layers/dense_12/vars/1"]
        file["layers/dense_12/vars/1"] = h5py.ExternalLink("secret.h5", "/bias")
        assert file["layers/dense_12/vars/1"].shape == (5,)
    with pytest.raises(UserError, match=r"a\.weights\.h5: .*/layers/dense_12/vars/1 is a link"):
        from_keras(tmp_path / "a.weights.h5")


def test_unreadable_files_are_one_line(tmp_path, monkeypatch):
    def fails(name: str, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            from_keras(tmp_path / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)

    fails("absent.keras", "not a readable Keras weights file")
    fails("absent.weights.h5", "not a readable Keras weights file")
    fails("model.npz", "accepted are")
    for name in ("noise.keras", "noise.weights.h5"):
        (tmp_path / name).write_bytes(b"noise" * 99)
        fails(name, "not a readable Keras weights file")
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    fails("empty.keras", "not a readable Keras weights file")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["model_weights/dense/kernel"] = np.zeros(3)
    fails("old.h5", "no group `layers`")
    monkeypatch.setattr("eanet.keras_weights._MAX_BYTES", 100)
    build(Sizes("external", **SMALL)).save(tmp_path / "large.keras")
    fails("large.keras", "accepted: at most 100")
    monkeypatch.setitem(sys.modules, "h5py", None)
    fails("large.keras", "pip install h5py")


@pytest.mark.system
def test_neither_keras_nor_h5py_is_imported_before_it_is_needed():
    code = "import sys, eanet.keras_weights; assert not {'keras', 'h5py', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match="dict is no Keras model"):
        from_keras({})
