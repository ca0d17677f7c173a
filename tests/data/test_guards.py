"""The guards would have caught the example's fault, and are silent where nothing is wrong."""

import math

import jax
import numpy as np
import pytest

from configs import default, reproduction
from eanet import train
from eanet.data import guards
from eanet.data.augmentation import Preprocessing
from eanet.errors import UserError
from helpers.tiny import tiny_config

KEY = jax.random.key(0)


def _photographs(count=64):
    """Smooth random images, as bright as CIFAR-100's."""
    noise = np.random.default_rng(0).normal(size=(count, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    return np.clip(120 + 70 * noise, 0, 255).astype(np.uint8)


def _preprocessing(config, images):
    means, deviations = images.mean((0, 1, 2)), images.std((0, 1, 2))
    return Preprocessing(tuple(means.tolist()), tuple(deviations.tolist()), **config.augment.to_dict())


def test_the_default_path_passes_without_a_warning():
    images = _photographs()
    config = default.get_config()
    assert guards.check_input(KEY, images, _preprocessing(config, images), config.guard) == []


def test_the_clip_stops_a_run_and_the_message_says_where_they_part():
    images = _photographs()
    config = default.get_config()
    config.augment.contrast_clip = True
    with pytest.raises(UserError, match=r"part in augment, most at row \d+, .* 0 in training and -\d") as stop:
        guards.check_input(KEY, images, _preprocessing(config, images), config.guard)
    assert stop.value.exit_code == 1


def test_the_reproduction_of_the_clip_runs_with_a_warning_for_each_statistic():
    images = _photographs()
    config = reproduction.get_config("keras3")
    warnings = guards.check_input(KEY, images, _preprocessing(config, images), config.guard)
    assert [warning.split("evaluation's: ")[1].split()[0] for warning in warnings] == ["zeros", "mean", "deviation"]


@pytest.mark.parametrize("name", ["zeros", "mean", "deviation"])
def test_thresholds_come_from_the_configuration(name):
    images = _photographs()
    config = reproduction.get_config("keras3")
    config.guard[name] = 1.0
    warnings = guards.check_input(KEY, images, _preprocessing(config, images), config.guard)
    assert len(warnings) == 2 and not any(f": {name} " in warning for warning in warnings)


def test_statistics_of_a_known_input():
    statistics = guards.InputStatistics.of(np.array([0.0, 0.0, 1.0, 3.0]))
    assert statistics.zeros == 0.5 and statistics.mean == 1.0
    assert statistics.deviation == pytest.approx(math.sqrt(1.5))


def _rows(train_losses, validation_losses):
    pairs = zip(train_losses, validation_losses, strict=True)
    return [{"train/loss": train_loss, "val/loss": loss} for train_loss, loss in pairs]


@pytest.mark.parametrize(
    ("train_losses", "validation_losses", "expected"),
    [
        ([4.3, 4.1], [4.9, 5.7], True),
        ([4.3, 4.1, 3.9], [4.9, 5.7, 7.0], False),  # said an epoch ago
        ([4.3, 4.1, 3.9], [4.2, 4.9, 5.7], True),
        ([4.3, 4.1], [4.2, 5.7], False),
        ([4.3, 4.4], [4.9, 5.7], False),  # training does not fall either: another trouble
        ([4.3], [4.9], False),
    ],
)
def test_divergence_is_said_once(train_losses, validation_losses, expected):
    assert guards.validation_diverges(_rows(train_losses, validation_losses), num_classes=100) == expected


def test_a_run_stops_before_its_first_epoch(tmp_path):
    with pytest.raises(UserError, match="see different images"):
        train.train(tiny_config(augment__contrast_clip=True), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_run_prints_its_warning_once(tmp_path, monkeypatch, capsys):
    real = guards.validation_diverges
    monkeypatch.setattr(guards, "validation_diverges", lambda rows, classes: real(rows, num_classes=1))  # ln(1) = 0
    train.train(tiny_config(train__epochs=4), tmp_path)
    assert capsys.readouterr().out.count("warning: validation loss has been above ln(10)") == 1


def test_the_clip_exists_in_no_other_configuration():
    import importlib
    import pathlib

    for path in (pathlib.Path(__file__).parents[2] / "configs").glob("[!_]*.py"):
        if path.stem != "reproduction":
            assert not importlib.import_module(f"configs.{path.stem}").get_config().augment.contrast_clip
    assert {arm: reproduction.get_config(arm).augment.contrast_clip for arm in reproduction.ARMS} == {
        "keras2021": False,
        "keras3": True,
        "vit2021": False,
        "vit3": True,
    }
