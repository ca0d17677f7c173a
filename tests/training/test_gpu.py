"""A GPU computes what a CPU does, and with config.deterministic the same bits every time. Needs a GPU."""

import shutil

import jax
import numpy as np
import pytest

from eanet import train
from eanet.attention import ATTENTIONS
from eanet.data import datasets as data
from eanet.training import sharding
from eanet.training.trainer import Trainer
from helpers.runs import rows
from helpers.tiny import tiny_config

pytestmark = pytest.mark.skipif(jax.default_backend() != "gpu", reason="there is no GPU")

# The example's width, so that the GPU uses the same kernels as in a real run.
_WIDTH = {"model__dim": 64, "model__mlp_dim": 64, "model__depth": 2, "model__patch_size": 2}


def _train(devices, **overrides):
    """Take six steps; return the sums of the training metrics and each validation image's loss, by member."""
    config = tiny_config(**_WIDTH, **overrides)
    dataset = data.load(config.data)
    trainer = Trainer(config, dataset, sharding.make_mesh(config.num_seeds, devices[:1]))
    state, arrays = trainer.init(), trainer.put(dataset.train)
    trainer.compile_training(*arrays)
    state, _, sums = trainer.train(state, *arrays, 6)
    return sums["loss"], trainer.evaluate(state.params, *trainer.put(dataset.validation))["loss"]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_training_gives_the_numbers_of_a_cpu(attention):
    ours, theirs = (
        _train(jax.devices(platform), model__attention=attention, data__train_limit=192) for platform in ("gpu", "cpu")
    )
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-3)


def test_tf32_is_not_used_unless_asked_for():
    exact, plain, coarse = (
        _train(jax.devices(platform), matmul_precision=precision)[1]
        for platform, precision in (("cpu", "float32"), ("gpu", "float32"), ("gpu", "tensorfloat32"))
    )
    assert 10 * np.abs(plain - exact).max() < np.abs(coarse - exact).max()


@pytest.mark.parametrize("attention", ["external", "self"])
def test_seeds_trained_together_are_seeds_trained_alone(attention):
    together = _train(jax.devices("gpu"), num_seeds=3, seeds_per_call=3, model__attention=attention)
    for seed in range(3):
        alone = _train(jax.devices("gpu"), seed=seed, model__attention=attention)
        np.testing.assert_allclose(together[0][seed], alone[0][0], rtol=1e-5)
        np.testing.assert_allclose(together[1][seed], alone[1][0], rtol=1e-3)


@pytest.mark.parametrize("attention", ["external", "self"])
def test_a_resumed_deterministic_run_has_the_bits_of_an_undisturbed_one(attention, tmp_path):
    config = tiny_config(deterministic=True, num_seeds=2, model__attention=attention, **_WIDTH)
    train.train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    newest = max((tmp_path / "resumed" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    shutil.rmtree(newest)
    (tmp_path / "resumed" / "results.json").unlink()
    train.train(config, tmp_path / "resumed")
    train.train(config, tmp_path / "again")
    for other in ("resumed", "again"):
        assert _numbers(tmp_path / other) == _numbers(tmp_path / "whole")


def _numbers(workdir):
    """Return the rows of metrics, without timings, and the bytes of all predictions."""
    with np.load(workdir / "predictions.npz", allow_pickle=False) as arrays:
        return rows(workdir), {name: arrays[name].tobytes() for name in arrays.files}
