"""Data sets that are not prepared: no network, unknown names, and what the metadata rule out."""

import json
import os
import pathlib
import threading
import time
import types

import numpy as np
import pytest
import requests

from eanet.data import datasets as data
from eanet.data import tfds_sets
from eanet.errors import UserError
from helpers.tiny import data_settings, fail


def assert_says_all(error, directory):
    """Name the data set, the directory and both ways out; the cause is each test's own."""
    text = str(error.value)
    for part in ("cifar100", str(directory), "--config.data.dir=", "configs/digits.py"):
        assert part in text
    assert error.value.exit_code == 1
    return text


def test_no_network_ends_soon_with_one_message_and_both_ways_out(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise requests.ConnectionError("the cable is out")

    monkeypatch.setattr(requests, "get", refuse)
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        data.load(data_settings(tmp_path / "none"))
    assert time.monotonic() - start < 30
    assert "ConnectionError" in assert_says_all(error, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_network_that_never_answers_is_given_up(tmp_path, monkeypatch):
    assert tfds_sets._PROBE_SECONDS < 25  # the whole program has 30
    release = threading.Event()

    def hang(*args, **kwargs):
        release.wait(60)
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "get", hang)
    monkeypatch.setattr(tfds_sets, "_PROBE_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        data.load(data_settings(tmp_path))
    release.set()
    assert time.monotonic() - start < 10
    assert "no answer" in assert_says_all(error, tmp_path)


def test_source_that_is_gone_is_a_cause_too(tmp_path, monkeypatch):
    def gone(*args, **kwargs):
        response = requests.Response()
        response.status_code, response.reason, response.raw = 404, "Not Found", open(os.devnull, "rb")
        return response

    monkeypatch.setattr(requests, "get", gone)
    with pytest.raises(UserError) as error:
        data.load(data_settings(tmp_path))
    assert "404 Not Found" in assert_says_all(error, tmp_path)


@pytest.mark.parametrize("name", ["no_such_set", "two words", "cifar100/no_such_config", ".."])
def test_unknown_name_is_refused_with_what_is_accepted(tmp_path, monkeypatch, name):
    monkeypatch.setattr(requests, "get", fail)  # nothing is looked for on the network
    with pytest.raises(UserError) as error:
        data.load(data_settings(tmp_path, name=name))
    assert f"config.data.name={name}" in str(error.value) and "digits" in str(error.value)
    assert error.value.exit_code == 2


def test_unknown_version_is_refused_like_an_unknown_name(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.name=cifar100:9\.9\.9"):
        data.load(data_settings(tmp_path, name="cifar100:9.9.9"))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("cifa10", "did you mean cifar10 or "),
        ("CIFAR100", "did you mean cifar100 or "),
        ("digit", "did you mean digits?"),
        ("svhn", "did you mean svhn_cropped?"),
        ("emnist/leters", "did you mean emnist/letters or "),
        ("emnist/letters:9.9.9", "only: "),
        ("no_such_set", "no such data set;"),
    ],
)
def test_the_nearest_names_are_said_and_not_all_of_them(tmp_path, monkeypatch, name, near):
    from tensorflow_datasets.core import community

    monkeypatch.setattr(community, "community_register", fail)  # a look at the network that takes seconds
    with pytest.raises(UserError) as error:
        data.load(data_settings(tmp_path, name=name))
    assert near in str(error.value) and len(str(error.value)) < 200


_SIZE = "and config.data.image_size=0; accepted: a side in pixels, e.g. 64"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image": (None, None, 3)}, f"images have different sizes {_SIZE}"),
        ({"image": (8, 9, 3)}, f"images are (8, 9, 3) {_SIZE}"),
        ({"image": None}, "no feature 'image'; accepted: image classification sets"),
        ({"label": None}, "no feature 'label'; accepted: image classification sets"),
        ({"label": "number"}, "its label is not a class; accepted: image classification sets"),
        (
            {"splits": ["train", "extra"]},
            "its splits are train, extra; accepted: sets with train, and test or validation",
        ),
    ],
    ids=str,
)
def test_what_the_metadata_rule_out_is_refused_before_anything_is_downloaded(tmp_path, monkeypatch, changes, says):
    import tensorflow_datasets as tfds

    shape, label = changes.get("image", (8, 8, 3)), tfds.features.ClassLabel(num_classes=2)
    features = {"image": shape and tfds.features.Image(shape=shape), "label": changes.get("label", label)}
    features["label"] = tfds.features.Scalar(np.int64) if features["label"] == "number" else features["label"]
    info = types.SimpleNamespace(
        features=tfds.features.FeaturesDict({name: feature for name, feature in features.items() if feature}),
        splits=changes.get("splits", []),
    )
    builder = types.SimpleNamespace(data_path=tmp_path / "none", info=info, download_and_prepare=fail)
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)
    monkeypatch.setattr(tfds_sets, "_unreachable", fail)
    monkeypatch.setattr(tfds_sets, "_import_tensorflow", fail)
    with pytest.raises(UserError) as error:
        data.load(data_settings(tmp_path, name="mnist"))
    assert str(error.value) == f"config.data.name=mnist: {says}" and error.value.exit_code == 2


@pytest.mark.parametrize("name", ["imagenette", "oxford_flowers102"])
def test_published_sets_of_varying_sizes_are_refused_before_their_download(tmp_path, monkeypatch, name):
    monkeypatch.setattr(tfds_sets, "_unreachable", fail)
    with pytest.raises(UserError, match="images have different sizes"):
        data.load(data_settings(tmp_path, name=name))


def test_sets_of_varying_sizes_without_a_test_split_are_resized(tmp_path, monkeypatch):
    """As imagenette: train and validation, of which the latter becomes the test split."""
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    sizes = [(20, 10), (8, 8), (9, 30), (16, 16)] * 3
    records = [{"image": rng.integers(0, 256, (*size, 3), np.uint8), "label": i % 2} for i, size in enumerate(sizes)]
    features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(num_classes=2)}
    splits = {"train": types.SimpleNamespace(num_examples=8), "validation": types.SimpleNamespace(num_examples=4)}
    info = types.SimpleNamespace(features=tfds.features.FeaturesDict(features), splits=splits)
    monkeypatch.setattr(tfds, "builder_from_directory", lambda directory: types.SimpleNamespace(info=info))
    parts = {"train": records[:8], "validation": records[8:]}
    monkeypatch.setattr(tfds_sets, "_records", lambda builder, split: iter(parts[split]))
    monkeypatch.setenv("EANET_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "mnist" / "1.0.0").mkdir(parents=True)
    (tmp_path / "mnist" / "1.0.0" / "dataset_info.json").write_text("{}")
    dataset = data.load(data_settings(tmp_path, name="mnist", image_size=16))
    assert dataset.train.images.shape == (6, 16, 16, 3) and len(dataset.test) == 4
    np.testing.assert_array_equal(dataset.train.images[3], records[3]["image"])  # of the size already
    assert dataset.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert len(data.load(data_settings(tmp_path, name="mnist", image_size=8)).test.images[0]) == 8  # another cache
    with pytest.raises(UserError, match="images have different sizes and config.data.image_size=0"):
        data.load(data_settings(tmp_path, name="mnist"))


def test_set_whose_default_config_has_a_directory_is_found_where_it_is_prepared(tmp_path, monkeypatch):
    """TFDS puts a set that has configurations a directory deeper."""
    import tensorflow_datasets as tfds

    prepared = pathlib.Path(tfds.builder("emnist", data_dir=str(tmp_path)).data_path)
    assert prepared.parent.parent.name == "emnist"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").write_text(json.dumps({"name": "emnist", "version": prepared.name}))
    monkeypatch.setattr(requests, "get", fail)
    monkeypatch.setattr(tfds_sets, "_decode", lambda directory, name, image_size: ({}, {"found": str(directory)}))
    _, meta = tfds_sets.load_tfds("emnist", str(tmp_path))
    assert meta["found"] == str(prepared)
