"""Data sets: order, splits, statistics, cache, and what is said where a set cannot be had."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from eanet import cache
from eanet.data import datasets as data
from eanet.data import tfds_sets
from eanet.data.channels import describe_channels
from eanet.errors import UserError
from helpers import synthetic
from helpers.tiny import data_settings, fail

ROOT = pathlib.Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "tfds"


@pytest.fixture
def cache_dir(tmp_path, monkeypatch):
    """An empty cache of this test's own."""
    monkeypatch.setenv("EANET_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def expected(split):
    """Images and labels of the synthetic set, by id."""
    records = synthetic.make_records(split)
    return np.stack([record["image"] for record in records]), np.array([record["label"] for record in records])


def in_own_process(code, *arguments, **environment):
    """Run code in a fresh interpreter and give what it printed as JSON."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "OpenCV" not in result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_records_come_in_the_order_of_their_ids(tfds_dir):
    import tensorflow_datasets as tfds

    stored = tfds.builder_from_directory(str(tfds_dir / "cifar100" / synthetic.VERSION)).as_data_source("train")
    ids = [record["id"] for record in stored]
    assert ids != sorted(ids)  # else sorting would have nothing to do

    dataset = data.load(data_settings(tfds_dir))
    images, labels = expected("train")
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
    np.testing.assert_array_equal(np.concatenate([dataset.train.images, dataset.validation.images]), images)
    np.testing.assert_array_equal(np.concatenate([dataset.train.labels, dataset.validation.labels]), labels)
    test_images, test_labels = expected("test")
    np.testing.assert_array_equal(dataset.test.images, test_images)
    np.testing.assert_array_equal(dataset.test.labels, test_labels)
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32


@pytest.mark.parametrize("fraction, validation", [(0.2, 12), (0.5, 30), (0.01, 1), (0.99, 60)])
def test_last_part_of_the_training_records_validates(tfds_dir, fraction, validation):
    if fraction == 0.99:  # nothing would be left to train on
        with pytest.raises(UserError, match=r"validation_fraction=0.99.*60"):
            data.load(data_settings(tfds_dir, validation_fraction=fraction))
        return
    dataset = data.load(data_settings(tfds_dir, validation_fraction=fraction))
    images, _ = expected("train")
    assert (len(dataset.train), len(dataset.validation)) == (60 - validation, validation)
    np.testing.assert_array_equal(dataset.validation.images, images[-validation:])


def test_train_limit_takes_the_first_images_and_leaves_the_rest_alone(tfds_dir):
    whole, limited = data.load(data_settings(tfds_dir)), data.load(data_settings(tfds_dir, train_limit=7))
    assert (len(whole.train), len(limited.train)) == (48, 7)
    np.testing.assert_array_equal(limited.train.images, whole.train.images[:7])
    np.testing.assert_array_equal(limited.train.labels, whole.train.labels[:7])
    np.testing.assert_array_equal(limited.validation.images, whole.validation.images)
    np.testing.assert_array_equal(limited.test.images, whole.test.images)
    assert (limited.mean, limited.deviation) == (whole.mean, whole.deviation)
    assert len(data.load(data_settings(tfds_dir, train_limit=48)).train) == 48
    with pytest.raises(UserError, match=r"train_limit=49.*48"):
        data.load(data_settings(tfds_dir, train_limit=49))


def test_eval_limit_takes_the_first_images_of_validation_and_test(tfds_dir):
    whole, limited = data.load(data_settings(tfds_dir)), data.load(data_settings(tfds_dir, eval_limit=5))
    assert len(whole.validation) > 5 < len(whole.test)
    for part in ("validation", "test"):
        np.testing.assert_array_equal(getattr(limited, part).images, getattr(whole, part).images[:5])
        np.testing.assert_array_equal(getattr(limited, part).labels, getattr(whole, part).labels[:5])
    np.testing.assert_array_equal(limited.train.images, whole.train.images)
    assert (limited.mean, limited.deviation) == (whole.mean, whole.deviation)
    most = max(len(whole.validation), len(whole.test))
    assert len(data.load(data_settings(tfds_dir, eval_limit=most)).test) == len(whole.test)
    with pytest.raises(UserError, match=rf"config\.data\.eval_limit={most + 1} .* accepted: 0 \(all\) to {most}"):
        data.load(data_settings(tfds_dir, eval_limit=most + 1))


def test_statistics_are_per_channel_over_all_training_records(tfds_dir):
    dataset = data.load(data_settings(tfds_dir))
    images, _ = expected("train")
    mean, deviation = images.mean((0, 1, 2), dtype=np.float64), images.std((0, 1, 2), dtype=np.float64)
    np.testing.assert_allclose(dataset.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(dataset.deviation, deviation, rtol=1e-10)
    # Without the validation records, or with the test ones, it would be other numbers.
    others = dataset.train.images, np.concatenate([images, dataset.test.images])
    assert all(np.abs(other.mean((0, 1, 2)) - mean).max() > 0.01 for other in others)
    assert np.abs(np.diff(mean)).min() > 10


def test_statistics_in_pieces_equal_those_in_one(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (2500, 3, 3, 2), dtype=np.uint8)
    images[..., 1] = 9  # a channel that never changes is divided by 1
    described = describe_channels(images)
    np.testing.assert_allclose(described["mean"], images.mean((0, 1, 2)))
    np.testing.assert_allclose(described["deviation"], [images[..., 0].std(), 1.0])


def test_classes_and_superclasses_have_their_names(tfds_dir):
    dataset = data.load(data_settings(tfds_dir))
    assert dataset.class_names == synthetic.CLASS_NAMES
    assert dataset.superclass_names == synthetic.SUPERCLASS_NAMES
    assert dataset.superclass_of == synthetic.SUPERCLASS_OF


READ = """
import sys, json, zlib
from configs import default
from eanet.data import datasets as data
from eanet.data import tfds_sets
from eanet.data.channels import describe_channels
config = default.get_config().data
config.dir = sys.argv[1]
dataset = data.load(config)
splits = (dataset.train, dataset.validation, dataset.test)
print(json.dumps({
    "tensorflow": "tensorflow" in sys.modules,
    "sizes": [len(split) for split in splits],
    "checksums": [zlib.crc32(split.images.tobytes() + split.labels.tobytes()) for split in splits],
}))
"""


@pytest.mark.system
def test_both_file_formats_are_read_and_only_tfrecord_needs_tensorflow(tfds_dir, tfrecord_dir, tmp_path):
    array_record, tfrecord = (
        in_own_process(READ, directory, EANET_CACHE_DIR=str(tmp_path / name))
        for name, directory in (("a", tfds_dir), ("t", tfrecord_dir))
    )
    assert any(tfrecord_dir.rglob("*.tfrecord*")) and any(tfds_dir.rglob("*.array_record*"))
    assert (array_record.pop("tensorflow"), tfrecord.pop("tensorflow")) == (False, True)
    assert array_record == tfrecord
    assert array_record["sizes"] == [48, 12, 24]


def test_second_time_comes_from_the_cache(tfds_dir, cache_dir, monkeypatch):
    first = data.load(data_settings(tfds_dir))
    assert len(list(cache_dir.iterdir())) == 1
    monkeypatch.setattr(tfds_sets, "_decode", fail)
    second = data.load(data_settings(tfds_dir))
    assert isinstance(second.train.images, np.memmap) and not isinstance(first.train.images, np.memmap)
    for split in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(first, split).images, getattr(second, split).images)
        np.testing.assert_array_equal(getattr(first, split).labels, getattr(second, split).labels)
    for known in ("mean", "deviation", "class_names", "superclass_names", "superclass_of"):
        assert getattr(first, known) == getattr(second, known)


def test_cache_is_found_again_where_the_data_set_moved(tfds_dir, cache_dir, monkeypatch, tmp_path):
    data.load(data_settings(tfds_dir))
    (tmp_path / "moved").symlink_to(tfds_dir)
    monkeypatch.setattr(tfds_sets, "_decode", fail)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "moved"))  # as the default directory, too
    assert len(data.load(data_settings()).train) == 48


@pytest.mark.parametrize("file", ["train_images.npy", "test_labels.npy", "index.json"])
def test_damaged_cache_is_rebuilt_with_a_message(tfds_dir, cache_dir, capsys, monkeypatch, file):
    whole = data.load(data_settings(tfds_dir))
    assert capsys.readouterr().err == ""
    (damaged,) = cache_dir.glob(f"*/{file}")
    damaged.write_bytes(damaged.read_bytes()[:-3])
    again = data.load(data_settings(tfds_dir))
    message = capsys.readouterr().err
    assert str(damaged.parent) in message and "damaged" in message and "rebuilt" in message
    np.testing.assert_array_equal(again.train.images, whole.train.images)
    monkeypatch.setattr(tfds_sets, "_decode", fail)
    data.load(data_settings(tfds_dir))  # and it is whole from now on
    assert capsys.readouterr().err == ""


def test_cache_that_cannot_be_written_costs_a_message_only(tfds_dir, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EANET_CACHE_DIR", str(tmp_path / "file"))
    assert len(data.load(data_settings(tfds_dir)).train) == 48
    assert "cannot be written" in capsys.readouterr().err


def test_newest_prepared_version_is_read(tmp_path):
    for version in ("3.0.2", "3.0.10", "2.9.9", "incomplete.3.1.0"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "dataset_info.json").write_text("{}")
    (tmp_path / "9.0.0").mkdir()  # nothing in it
    assert tfds_sets._newest_version(tmp_path).name == "3.0.10"
    assert tfds_sets._newest_version(tmp_path / "nowhere") is None


def copy_of(tfds_dir, tmp_path):
    target = tmp_path / "copy" / "cifar100" / synthetic.VERSION
    target.mkdir(parents=True)
    for path in (tfds_dir / "cifar100" / synthetic.VERSION).iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def truncate_records(prepared):
    (path,) = prepared.glob("*train.array_record*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove_records(prepared):
    (path,) = prepared.glob("*train.array_record*")
    path.unlink()


def empty_features(prepared):
    (prepared / "features.json").write_text("")


def break_info(prepared):
    (prepared / "dataset_info.json").write_text("{")


@pytest.mark.parametrize("damage", [truncate_records, remove_records, empty_features, break_info])
def test_damaged_data_set_is_named_with_its_directory(tfds_dir, cache_dir, tmp_path, damage):
    prepared = copy_of(tfds_dir, tmp_path)
    damage(prepared)
    with pytest.raises(UserError) as error:
        data.load(data_settings(prepared.parents[1]))
    assert "cifar100" in str(error.value) and str(prepared) in str(error.value)
    assert error.value.exit_code == 1
    assert not cache_dir.exists()


def test_digits_are_split_into_1149_288_and_360_different_images():
    from sklearn.datasets import load_digits

    config = data_settings(name="digits")
    dataset, again = data.load(config), data.load(config)
    splits = (dataset.train, dataset.validation, dataset.test)
    assert [len(split) for split in splits] == [1149, 288, 360]
    assert dataset.class_names == tuple("0123456789") and dataset.superclass_names == ()
    for split, same in zip(splits, (again.train, again.validation, again.test), strict=True):
        assert split.images.shape[1:] == (8, 8, 1) and split.images.dtype == np.uint8
        assert set(split.labels) == set(range(10))
        np.testing.assert_array_equal(split.images, same.images)
    # Disjoint and complete: together they are the digits, each as often as there.
    original = load_digits()
    rows = np.concatenate([np.concatenate([s.images.reshape(len(s), 64), s.labels[:, None]], 1) for s in splits])
    expected_rows = np.concatenate([original.images.reshape(-1, 64), original.target[:, None]], 1)
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, expected_rows.astype(int).tolist()))
    training = np.concatenate([dataset.train.images, dataset.validation.images])
    np.testing.assert_allclose(dataset.mean, training.mean((0, 1, 2)))
    np.testing.assert_allclose(dataset.deviation, training.std((0, 1, 2)))


def test_digits_need_neither_network_nor_tfds_nor_cache(cache_dir, monkeypatch):
    monkeypatch.setattr(data, "load_tfds", fail)
    monkeypatch.setattr(cache, "store", fail)
    assert len(data.load(data_settings(name="digits", train_limit=100)).train) == 100
    assert not cache_dir.exists()


@pytest.mark.slow
def test_real_cifar100_has_its_known_statistics(cache_dir):
    if not (REAL / "cifar100").is_dir():
        pytest.skip(f"no prepared CIFAR-100 in {REAL}")
    data.load(data_settings(REAL))
    start = time.monotonic()
    dataset = data.load(data_settings(REAL))
    assert time.monotonic() - start < 2  # the issue asks for 1 s; a busy machine gets two
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [40_000, 10_000, 10_000]
    np.testing.assert_allclose(dataset.mean, [129.304, 124.070, 112.434], atol=1e-3)
    np.testing.assert_allclose(dataset.deviation, [68.170, 65.392, 70.418], atol=1e-3)
    labels = np.concatenate([dataset.train.labels, dataset.validation.labels])
    assert np.bincount(labels).tolist() == [500] * 100
    assert np.bincount(dataset.test.labels).tolist() == [100] * 100
    assert np.bincount(dataset.superclass_of).tolist() == [5] * 20
    superclass = dict(
        zip(dataset.class_names, (dataset.superclass_names[i] for i in dataset.superclass_of), strict=True)
    )
    assert superclass["apple"] == "fruit_and_vegetables" and superclass["wolf"] == "large_carnivores"
