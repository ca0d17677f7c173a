"""Runs whose images come from the host: the same bits as in memory, whatever interrupts them."""

import pathlib

import jax
import numpy as np
import pytest

from eanet import evaluate, train
from eanet.data import datasets as data
from eanet.data.datasets import Split
from eanet.training import feed, sharding, trainer
from eanet.training.trainer import Trainer
from helpers import runs
from helpers.tiny import fail, tiny_config


def _pair(**fields):
    """Trainers of one configuration, in memory and streaming, and the data set."""
    dataset = data.load(tiny_config().data)
    configs = [tiny_config(data__streaming=streaming, **fields) for streaming in ("never", "always")]
    return [Trainer(config, dataset, sharding.make_mesh(config.num_seeds)) for config in configs], dataset


_GRID = {"num_seeds": 2, "vary__learning_rate": (1e-3, 1e-2), "fixed": ("order",)}


_OTHERS = [pytest.param(fields, marks=pytest.mark.system, id=str(fields)) for fields in ({}, {"num_seeds": 3})]


@pytest.mark.parametrize("fields", [pytest.param(_GRID, id="grid, one order"), *_OTHERS])
def test_steps_from_the_host_have_the_bits_of_steps_in_memory(fields):
    states, seen = [], []
    trainers, dataset = _pair(**fields)
    for one in trainers:
        arrays, state = one.put(dataset.train), one.init()
        one.compile_training(*arrays)
        assert isinstance(arrays[0], np.ndarray) == one.streaming
        for steps in (3, 1, 2, 2):  # to the end of an epoch of four steps, of which the last is smaller, and of another
            state, *reported = one.train(state, *arrays, steps)
            seen.append(reported)
        states.append(jax.device_get(state))
    jax.tree.map(np.testing.assert_array_equal, *states)
    jax.tree.map(np.testing.assert_array_equal, seen[:4], seen[4:])
    assert np.any(states[0].params["classifier"]["bias"] != 0)


def test_batches_of_several_calls_are_taken_in_their_order(monkeypatch):
    monkeypatch.setattr(feed, "_BYTES", 1)  # one step at a time
    (memory, streaming), dataset = _pair()
    results = []
    for one in (memory, streaming):
        arrays, state = one.put(dataset.train), one.init()
        one.compile_training(*arrays)
        results.append(jax.device_get(one.train(state, *arrays, 4)))
    assert streaming._feed.steps_at_once == 1
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_evaluation_in_pieces_is_evaluation(monkeypatch):
    (memory, streaming), dataset = _pair()
    monkeypatch.setattr(trainer, "_EVALUATED_BYTES", 2 * streaming.experiment.evaluation_batch * 64)
    params = memory.init().params
    for split in (dataset.validation, dataset.test):
        ours, theirs = (one.evaluate(params, *one.put(split)) for one in (streaming, memory))
        assert ours.keys() == theirs.keys() and len(split) % 128
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_divergence_in_an_early_call_is_kept(monkeypatch):
    monkeypatch.setattr(feed, "_BYTES", 1)
    (memory, streaming), dataset = _pair(optimizer__learning_rate=1e30)
    seen = []
    for one in (memory, streaming):
        arrays, state = one.put(dataset.train), one.init()
        one.compile_training(*arrays)
        seen.append(one.train(state, *arrays, 4)[1])
    assert 0 <= seen[0].diverged_step[0] < 3
    jax.tree.map(np.testing.assert_array_equal, *seen)


def test_a_whole_run_has_the_same_files_and_says_where_its_images_are(inspected, tmp_path, capsys):
    train.train(tiny_config(data__streaming="always", inspect__every_epochs=1), tmp_path / "run")
    assert "Streaming the images from the host (0.0 GiB; config.data.streaming=always)" in capsys.readouterr().out
    rows = runs.rows(tmp_path / "run")
    assert "inspect/block_0/entropy" in rows[0] and rows == runs.rows(inspected)
    np.testing.assert_array_equal(*(np.load(d / "predictions.npz")["loss"] for d in (tmp_path / "run", inspected)))
    ours, theirs = (evaluate.evaluate(d, "validation") for d in (tmp_path / "run", inspected))
    assert ours == theirs


def test_an_interrupted_run_goes_on_at_its_step_in_memory_or_not(finished, tmp_path, monkeypatch):
    """Its position is the step of the checkpoint; no other state has to be kept."""
    save, kept = train.Run._save, []

    def save_and_stop(self):
        save(self)
        kept.append(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train.Run, "_save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train.train(tiny_config(data__streaming="always"), tmp_path / "run")
    train.train(tiny_config(data__streaming="never"), tmp_path / "run")
    assert kept and runs.rows(tmp_path / "run") == runs.rows(finished[0])


def test_auto_streams_what_takes_half_of_the_memory(monkeypatch):
    dataset = data.load(tiny_config().data)
    size = trainer.image_bytes(dataset)
    for memory, streams in ((2 * size, False), (2 * size - 2, True)):
        monkeypatch.setattr(trainer.footprint, "device_bytes", lambda memory=memory: memory)
        assert Trainer(tiny_config(), dataset, sharding.make_mesh()).streaming == streams


def test_images_of_a_file_are_not_read_ahead(tmp_path):
    """A set larger than memory would be read from the disk many times over: Linux says rr of such a mapping."""
    maps = pathlib.Path("/proc/self/smaps")
    if not maps.exists():
        pytest.skip("only Linux says how a mapping is read")
    (_, streaming), dataset = _pair()
    np.save(tmp_path / "images.npy", dataset.train.images)
    images = np.load(tmp_path / "images.npy", mmap_mode="r", allow_pickle=False)

    def flags():
        own = maps.read_text().partition(str(tmp_path / "images.npy"))[2]
        return own.partition("VmFlags:")[2].splitlines()[0].split()

    assert "rr" not in flags()
    feed.Feed(Split(images[:100], dataset.train.labels), streaming.experiment, 1, streaming.mesh, fail)
    assert "rr" in flags()


def test_in_memory_nothing_is_fed(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "Feed", fail)
    train.train(tiny_config(), tmp_path / "run")
