"""Numbers of maps and memories in the rows of a run, with config.inspect."""

import functools
import json

import jax
import numpy as np
import pytest

from eanet import train
from eanet.data import datasets as data
from eanet.data.augmentation import evaluation_input
from eanet.model import map_statistics
from eanet.run.trained import load_run
from eanet.training import trainer
from helpers.tiny import fail, tiny_config

_NAMES = {"entropy", "smallest_usage", "flat_slots", "rank_memory_key", "rank_memory_value"}


def _rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_every_second_epoch_has_the_numbers_of_its_parameters(tmp_path):
    train.train(tiny_config(inspect__every_epochs=2, num_seeds=3, seed=5), tmp_path / "run")
    rows = _rows(tmp_path / "run")
    expected = {f"inspect/block_0/{name}" for name in _NAMES}
    assert [expected <= row.keys() for row in rows] == [False, True]
    run = load_run(tmp_path / "run")
    images = data.load(tiny_config().data).validation.images[:64]
    inputs = evaluation_input(images, run.experiment.preprocessing)
    summarize = jax.jit(functools.partial(map_statistics.summarize, run.experiment.model))
    for i, network in enumerate(run.networks):
        own = summarize(jax.tree.map(lambda x, i=i: x[i], run.params), inputs)
        for name, value in own.items():
            assert rows[-1][f"{network.name}/inspect/{name}"] == pytest.approx(float(value), rel=1e-4)
    mean = np.mean([rows[-1][f"{network.name}/inspect/block_0/entropy"] for network in run.networks])
    assert rows[-1]["inspect/block_0/entropy"] == pytest.approx(mean)


def test_off_nothing_is_compiled_or_written(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.Trainer, "inspect", fail)
    train.train(tiny_config(), tmp_path / "run")
    assert not [name for row in _rows(tmp_path / "run") for name in row if "inspect" in name]


def test_the_numbers_do_not_change_the_training(finished, inspected):
    """The same bits with and without: nothing of the run depends on what is looked at."""
    ours, theirs = (np.load(workdir / "predictions.npz")["predicted"] for workdir in (inspected, finished[0]))
    np.testing.assert_array_equal(ours, theirs)
    kept = [{name: x for name, x in row.items() if "inspect" not in name and "second" not in name}
            for row in _rows(inspected)]  # fmt: skip
    assert kept == [{name: x for name, x in row.items() if "second" not in name} for row in _rows(finished[0])]


def test_a_network_without_attention_has_no_numbers(tmp_path):
    train.train(tiny_config(train__epochs=1, inspect__every_epochs=1, model__attention="none"), tmp_path / "run")
    assert not [name for row in _rows(tmp_path / "run") for name in row if "inspect" in name]
