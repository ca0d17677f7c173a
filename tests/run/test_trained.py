"""A trained run as a library loads it: its predictions, maps, networks, and what stands in its way."""

import json

import jax
import numpy as np
import pytest

import eanet
from eanet import evaluate
from eanet.data import datasets as data
from eanet.errors import UserError
from eanet.run.trained import load_run
from helpers.tiny import fail, tiny_config
from helpers.untrained import with_attention


@pytest.fixture
def images():
    return data.load(tiny_config().data).test.images[:70]


def test_predictions_are_those_of_the_test(finished, images):
    workdir, _ = finished
    run = eanet.load_run(workdir)
    assert run.step == 8 and run.class_names == tuple("0123456789") and len(run.networks) == 1
    stored = np.load(workdir / "predictions.npz")
    probabilities = run.predict(images)  # 70: a whole batch of 64 and a part of one
    assert probabilities.shape == (1, 70, 10) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(probabilities[0].argmax(-1), stored["predicted"][:70])
    np.testing.assert_allclose(np.asarray(jax.nn.softmax(run.logits(images[:3]))), probabilities[:, :3], rtol=1e-5)


def test_the_data_set_is_not_loaded_but_on_request(finished, images, monkeypatch):
    workdir, _ = finished
    with monkeypatch.context() as patch:
        patch.setattr(data, "load", fail)
        expected = load_run(workdir).predict(images)
    (workdir / "data.json").unlink()  # as an older version leaves it
    run = load_run(workdir)
    np.testing.assert_array_equal(run.predict(images), expected)
    assert len(run.load_data().test) == 360


def test_each_network_predicts_for_itself(three_seeds, images):
    workdir, _ = three_seeds
    run = load_run(workdir)
    assert [network.name for network in run.networks] == ["seed_5", "seed_6", "seed_7"]
    probabilities = run.predict(images)
    assert np.abs(probabilities[0] - probabilities[1]).max() > 0.01
    np.testing.assert_array_equal(probabilities.argmax(-1), np.load(workdir / "predictions.npz")["predicted"][:, :70])


def test_a_network_that_diverged_is_left_out(three_seeds, images, monkeypatch):
    workdir, _ = three_seeds
    whole = load_run(workdir).predict(images)
    restore = eanet.run.trained.restore_newest

    def with_one_diverged(*arguments):
        trainer, state, extra = restore(*arguments)
        return trainer, state, extra | {"tally": extra["tally"] | {"diverged": diverged}}

    monkeypatch.setattr(eanet.run.trained, "restore_newest", with_one_diverged)
    diverged = [-1, 4, -1]
    run = load_run(workdir)
    assert [network.name for network in run.networks] == ["seed_5", "seed_7"]
    np.testing.assert_array_equal(run.predict(images), whole[[0, 2]])
    diverged = [1, 4, 2]
    with pytest.raises(UserError, match="all networks have diverged"):
        load_run(workdir)


@pytest.mark.parametrize(
    ("attention", "maps"),
    [
        # tokens, heads, slots
        ("external", {"block_0/attention_map": (4, 16, 4), "block_0/attention_map_over_tokens": (4, 16, 4)}),
        ("self", {"block_0/attention_map": (4, 4, 4)}),  # heads, tokens, tokens
        ("induced", {"block_0/summarize_map": (4, 4, 4), "block_0/distribute_map": (4, 4, 4)}),
        ("linear", {}),
    ],
)
def test_maps_come_by_block_and_name(finished, images, attention, maps):
    found = with_attention(load_run(finished[0]), attention).attention_maps(images)
    assert {name: array.shape for name, array in found.items()} == {name: (1, 70, *own) for name, own in maps.items()}
    for name, array in found.items():
        np.testing.assert_allclose(array.sum(2 if name.endswith("over_tokens") else -1), 1, rtol=1e-4)


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 8, 8, 1)), np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8, 1), np.uint8)], ids=str
)
def test_other_images_are_refused(finished, bad):
    workdir, _ = finished
    with pytest.raises(
        ValueError, match=r"^images are .*; accepted: uint8 \[images, height, width, channels\] of 8×8×1"
    ):
        load_run(workdir).predict(bad)


def test_nothing_is_written(finished, images):
    workdir, _ = finished
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    load_run(workdir).predict(images)
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_what_is_no_run_is_refused(tmp_path, finished):
    with pytest.raises(UserError, match="holds no run"):
        load_run(tmp_path)
    workdir, _ = finished
    (workdir / "data.json").write_text(json.dumps({"mean": [0.0]}))
    with pytest.raises(UserError, match="data.json: it describes no data set"):
        load_run(workdir)
    (workdir / "data.json").unlink()
    (workdir / "checkpoints").rename(workdir / "elsewhere")
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        load_run(workdir)


def test_the_description_is_what_a_run_leaves(finished):
    workdir, _ = finished
    written, dataset = json.loads((workdir / "data.json").read_text()), data.load(tiny_config().data)
    assert written["images"] == {"train": 100, "validation": 288, "test": 360} and written["image_shape"] == [8, 8, 1]
    assert tuple(written["mean"]) == dataset.mean and tuple(written["class_names"]) == dataset.class_names
    assert evaluate.evaluate(workdir, "test")["examples"] == 360
