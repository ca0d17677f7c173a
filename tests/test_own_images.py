"""A folder of image files from training to prediction, with every other thing done to a run."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from eanet import evaluate, predict, train
from eanet.compare import comparison
from eanet.compare.finished_run import find_runs
from eanet.data import datasets as data
from eanet.errors import UserError
from eanet.run.trained import load_run
from helpers import runs
from helpers.tiny import tiny_config

_CLASSES = ("blue", "green", "red")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Ninety noisy images of three colors and of many sizes."""
    monkeypatch.setenv("EANET_CACHE_DIR", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for i, name in enumerate(_CLASSES):
        (tmp_path / "colors" / name).mkdir(parents=True)
        for j in range(30):
            pixels = rng.integers(0, 100, (*rng.integers(9, 30, 2), 3), dtype=np.uint8)
            pixels[..., 2 - i] += 120
            Image.fromarray(pixels).save(tmp_path / "colors" / name / f"{j:02}.png")
    return tmp_path / "colors"


def _config(folder, **fields):
    own = {"data__name": "folder", "data__dir": str(folder), "data__image_size": 8, "data__train_limit": 0}
    own |= {"model__attention": "none", "train__epochs": 8}  # which compiles soonest
    return tiny_config(**own | {"train__batch_size": 16, "optimizer__learning_rate": 1e-2} | fields)


def test_it_trains_evaluates_and_predicts_like_any_data_set(folder, tmp_path, monkeypatch, capsys):
    results = train.train(_config(folder), tmp_path / "run")
    assert results["test/accuracy"] > 0.8
    assert evaluate.evaluate(tmp_path / "run", "test")["accuracy"] == pytest.approx(results["test/accuracy"])
    assert set(evaluate.evaluate(tmp_path / "run", "test")["accuracy_by_class"]) == set(_CLASSES)
    run = load_run(tmp_path / "run")
    assert run.class_names == _CLASSES and run.experiment.image_shape == (8, 8, 3)
    monkeypatch.setattr(sys, "argv", ["predict", str(tmp_path / "run"), str(folder / "red" / "03.png"), "--json"])
    capsys.readouterr()
    predict.main()
    assert json.loads(capsys.readouterr().out)["top"][0]["class"] == "red"


def test_a_run_goes_on_with_the_files_that_it_began_with_only(folder, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.train(_config(folder), whole)
    monkeypatch.setattr(train.Run, "_test", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train.train(_config(folder), parts)
    monkeypatch.undo()
    monkeypatch.setenv("EANET_CACHE_DIR", str(tmp_path / "cache"))
    moved = folder / "red" / "00.png"
    content = moved.read_bytes()
    moved.unlink()
    with pytest.raises(UserError, match=r"began with other images than config.data.dir=.* holds now; accepted:"):
        train.train(_config(folder), parts)
    moved.write_bytes(content)
    train.train(_config(folder), parts)
    assert runs.rows(whole) == runs.rows(parts)
    np.testing.assert_array_equal(*(np.load(one / "predictions.npz")["loss"] for one in (whole, parts)))


def test_another_folder_is_another_run(folder, tmp_path):
    train.train(_config(folder), tmp_path / "run")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"config.data.dir is .* there and .* here"):
        train.train(_config(tmp_path / "elsewhere"), tmp_path / "run")


@pytest.mark.system
def test_five_thousand_images_of_many_sizes(tmp_path, monkeypatch, capsys):
    """Decoded, streamed, interrupted, compared: two arms on a folder with splits, in three formats."""
    monkeypatch.setenv("EANET_CACHE_DIR", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for split, count in (("train", 400), ("test", 100)):
        for i in range(10):
            place = tmp_path / "many" / split / f"class {i}"
            place.mkdir(parents=True)
            for j in range(count):
                pixels = rng.integers(0, 120, (*rng.integers(8, 40, 2), 3), dtype=np.uint8)
                pixels[: len(pixels) // 2, :, i % 3] += np.uint8(60 + 6 * i)
                Image.fromarray(pixels).save(place / f"{j:03}.{('png', 'jpg', 'webp')[j % 3]}")
    fields = {"data__image_size": 16, "train__batch_size": 128, "train__epochs": 4, "optimizer__learning_rate": 3e-3}
    save = train.Run._save

    def save_and_stop(self):
        save(self)
        raise KeyboardInterrupt

    for attention in ("external", "self"):
        config = _config(tmp_path / "many", model__attention=attention, data__streaming="always", **fields)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(train.Run, "_save", save_and_stop)
            train.train(config, tmp_path / "runs" / attention)
        assert train.train(config, tmp_path / "runs" / attention)["test/accuracy"] > 0.2
    result = comparison.compare(find_runs([tmp_path / "runs"])[0])
    assert [arm.name for arm in result.arms] == ["attention=external", "attention=self"]
    assert len(result.arms[0].runs[0].labels) == 1000 and len(result.arms[0].runs[0].class_names) == 10
    found = data.load(_config(tmp_path / "many", **fields).data)
    assert [len(found.train), len(found.validation), len(found.test)] == [3200, 800, 1000]
