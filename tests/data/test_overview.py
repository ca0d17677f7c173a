"""python -m eanet.data: counts, repetitions and pictures of a data set."""

import sys

import numpy as np
import pytest
from PIL import Image

from eanet.data import __main__ as command
from eanet.data import overview
from eanet.data.augmentation import Preprocessing
from eanet.data.datasets import Dataset, Split
from eanet.errors import UserError


def _images(values, channels=3):
    """Images of 4×4 of one value each."""
    return np.broadcast_to(np.array(values, np.uint8)[:, None, None, None], (len(values), 4, 4, channels)).copy()


@pytest.fixture
def dataset():
    """Two classes; 7 is in train twice and in test, 9 is in validation and test."""
    train = Split(_images([7, 7, 100, 200]), np.array([0, 0, 1, 1], np.int32))
    validation, test = (Split(_images(values), np.array([0, 1], np.int32)) for values in ([9, 11], [9, 7]))
    return Dataset(train, validation, test, (80.0,) * 3, (50.0,) * 3, ("ant", "bee"))


def test_images_are_counted_by_class_and_repetitions_by_pixels(dataset):
    found = overview.describe(dataset)
    assert {split: counts.tolist() for split, counts in found.counts.items()} == {
        "train": [2, 2],
        "validation": [1, 1],
        "test": [1, 1],
    }
    assert found.repeated == {"train": 1, "validation": 0, "test": 0}
    assert found.duplicates == {("train", "validation"): 0, ("train", "test"): 1, ("validation", "test"): 1}


def test_the_contact_sheet_has_a_row_for_each_class(dataset):
    pixels = np.asarray(overview.contact_sheet(dataset))
    assert pixels.shape == (2 * 64 + 3, 140 + 2 * 64 + 3, 3)
    assert (pixels[:64, 140:204] == 7).all() and (pixels[67:, 207:] == 200).all()
    assert (pixels[:, :140] < 100).any(axis=-1).any(axis=1)[:64].any()  # a name is written


def test_augmented_images_begin_with_the_original(dataset):
    plain = Preprocessing(dataset.mean, dataset.deviation)
    pixels = np.asarray(overview.augmented_sheet(dataset, plain))
    assert pixels.shape[1] == 9 * 67 - 3
    assert (pixels[67 * 2 : 67 * 2 + 64, :64] == 100).all()
    assert np.abs(pixels[67 * 2 : 67 * 2 + 64, 67:131].astype(int) - 100).max() <= 1  # no strength, no change
    gradient = np.linspace(0, 255, 4 * 4 * 3).reshape(1, 4, 4, 3).astype(np.uint8)
    other = Dataset(Split(gradient, np.zeros(1, np.int32)), *[dataset.test] * 2, (0.0,) * 3, (1.0,) * 3, ("a",))
    strong = np.asarray(overview.augmented_sheet(other, Preprocessing((0.0,) * 3, (1.0,) * 3, rotation=0.5)))
    assert len({strong[:64, 67 * i : 67 * i + 64].tobytes() for i in range(9)}) == 9


def test_dark_images_are_shown_bright_together():
    train = Split(_images([4, 16], 1), np.array([0, 1], np.int32))
    sheet = np.asarray(overview.contact_sheet(Dataset(train, train, train, (0.0,), (1.0,), ("a", "b"))))
    assert (sheet[:64, 140:204] == 60).all() and (sheet[67:, 140:204] == 240).all()


def _call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["data", *map(str, arguments)])
    command.main()


def test_the_command_prints_and_draws_digits(monkeypatch, tmp_path, capsys):
    _call(monkeypatch, "digits", f"--out={tmp_path / 'out'}", "--config.augment.flip=False")
    said = capsys.readouterr().out
    assert "images: 8×8, 1 channel" in said and "no image occurs twice" in said and "1,149" in said
    for name in ("contact_sheet.png", "augmented.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert np.asarray(picture).max() > 200


def test_the_command_takes_a_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("EANET_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("ant", "bee")):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for j in range(10):
            Image.fromarray(_images([20 * i + j])[0]).save(tmp_path / "mine" / name / f"{j}.png")
    Image.fromarray(_images([3])[0]).save(tmp_path / "mine" / "ant" / "again.png")
    _call(monkeypatch, "mine", "--config.data.image_size=8")
    said = capsys.readouterr().out
    assert "images: 8×8, 3 channels" in said and "1 image of " in said
    assert (tmp_path / "overview" / "mine" / "contact_sheet.png").exists()


def test_an_unknown_name_is_refused(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="config.data.name=no-such-set"):
        _call(monkeypatch, "no-such-set", f"--out={tmp_path / 'out'}")
