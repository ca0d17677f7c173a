"""Folders of image files as data sets."""

import shutil

import numpy as np
import pytest
from PIL import Image

from eanet.data import datasets as data
from eanet.data import folder
from eanet.errors import UserError
from helpers.tiny import data_settings, fail

_CLASSES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    """An empty cache of this test's own."""
    monkeypatch.setenv("EANET_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _save(path, seed, size=(12, 12), kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    (image.convert(kind) if kind else image).save(path)


@pytest.fixture
def flat(tmp_path):
    """Twenty PNGs of each of three classes, no splits."""
    root = tmp_path / "flat"
    for i, name in enumerate(_CLASSES):
        for j in range(20):
            _save(root / name / f"{j:02}.png", 100 * i + j)
    return root


@pytest.fixture
def split(tmp_path):
    root = tmp_path / "split"
    for k, (part, count) in enumerate((("train", 9), ("validation", 3), ("test", 4))):
        for i, name in enumerate(_CLASSES):
            for j in range(count):
                _save(root / part / name / f"{j:02}.png", 1000 * k + 100 * i + j)
    return root


def _settings(root, **fields):
    return data_settings(root, name="folder", **fields)


def _load(root, **fields):
    return data.load(_settings(root, **fields))


def _rows(split):
    return {(image.tobytes(), int(label)) for image, label in zip(split.images, split.labels, strict=True)}


def test_every_image_is_in_one_split_with_the_label_of_its_folder(flat):
    dataset = _load(flat)
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [38, 10, 12]
    assert dataset.class_names == _CLASSES and dataset.train.images.shape[1:] == (12, 12, 3)
    expected = set()
    for i, name in enumerate(_CLASSES):
        for path in sorted((flat / name).iterdir()):
            with Image.open(path) as image:
                expected.add((np.asarray(image).tobytes(), i))
    parts = [_rows(part) for part in (dataset.train, dataset.validation, dataset.test)]
    assert set().union(*parts) == expected and sum(map(len, parts)) == 60
    assert all(len({label for _, label in part}) == 3 for part in parts)  # sorted, the last class would be one split
    pixels = np.concatenate([dataset.train.images, dataset.validation.images])
    np.testing.assert_allclose(dataset.mean, pixels.mean((0, 1, 2)))
    np.testing.assert_allclose(dataset.deviation, pixels.std((0, 1, 2)))


def test_folders_that_are_split_stay_so(split):
    dataset = _load(split)
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [27, 9, 12]
    for part in ("train", "validation", "test"):
        own = getattr(dataset, part)
        files = {np.asarray(Image.open(path)).tobytes() for path in (split / part).rglob("*.png")}
        assert {image.tobytes() for image in own.images} == files
    shutil.rmtree(split / "validation")
    dataset = _load(split)
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [21, 6, 12]


def test_the_order_is_the_same_wherever_and_whenever_it_is_read(flat, tmp_path, monkeypatch):
    first = _load(flat)
    shutil.copytree(flat, tmp_path / "copy")
    monkeypatch.setenv("EANET_CACHE_DIR", str(tmp_path / "another"))
    second = _load(tmp_path / "copy")
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(first, part).images, getattr(second, part).images)
        np.testing.assert_array_equal(getattr(first, part).labels, getattr(second, part).labels)
    assert first.digest == second.digest != ""


def test_the_second_time_comes_from_the_cache_and_is_not_in_memory(flat, monkeypatch, capsys):
    first = _load(flat)
    monkeypatch.setattr(folder, "_decode", fail)
    second = _load(flat)
    assert isinstance(second.train.images.base, np.memmap) or isinstance(second.train.images, np.memmap)
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change", ["write", "add", "remove", "rename"])
def test_a_folder_that_has_changed_is_decoded_again_with_a_line(flat, capsys, change):
    before = _load(flat)
    path = flat / "bee" / "03.png"
    if change == "write":
        _save(path, 999)
    elif change == "add":
        _save(path.with_name("new.png"), 999)
    elif change == "remove":
        path.unlink()
    else:
        path.rename(path.with_name("zzz.png"))
    after = _load(flat)
    assert capsys.readouterr().err == f"{flat} has changed since it was decoded; decoding it again.\n"
    sizes = [sum(map(len, (one.train, one.validation, one.test))) for one in (before, after)]
    assert sizes[1] - sizes[0] == {"add": 1, "remove": -1}.get(change, 0)
    assert after.digest != before.digest
    _load(flat)
    assert capsys.readouterr().err == ""


def test_another_size_is_no_change(flat, capsys):
    assert _load(flat).train.images.shape[1:] == (12, 12, 3)
    assert _load(flat, image_size=8).train.images.shape[1:] == (8, 8, 3)
    assert len(_load(flat, test_fraction=0.5).test) == 30
    assert capsys.readouterr().err == ""


def test_images_of_many_sizes_are_resized_or_refused(flat):
    _save(flat / "ant" / "wide.jpg", 7, (20, 60))
    _save(flat / "cat" / "tall.webp", 8, (50, 10))
    with pytest.raises(UserError) as refused:
        _load(flat)
    said = str(refused.value)
    assert "config.data.image_size=0" in said and "12×12" in said and "20×60 (ant/wide.jpg)" in said
    dataset = _load(flat, image_size=16)
    assert dataset.train.images.shape[1:] == (16, 16, 3) and sum(map(len, (dataset.train, dataset.validation))) == 49


def test_images_that_are_alike_but_not_square_are_refused_without_a_size(tmp_path):
    for name in _CLASSES:
        for j in range(5):
            _save(tmp_path / "wide" / name / f"{j}.png", j, (8, 12))
    with pytest.raises(UserError, match=r"no one square size: 8×12 \(ant/0.png\)"):
        _load(tmp_path / "wide")


def test_grey_and_transparent_images_are_said(flat, capsys):
    for j in range(3):
        _save(flat / "ant" / f"grey{j}.png", j, kind="L")
    _save(flat / "bee" / "clear.png", 9, kind="RGBA")
    (flat / "bee" / "notes.txt").write_text("")
    (flat / "bee" / ".hidden.png").write_text("")
    assert _load(flat).train.images.shape[-1] == 3
    said = capsys.readouterr().err
    assert "3 grey images of 64 became three equal channels." in said
    assert "1 images of 64 have transparent parts, which became white." in said
    assert "1 files are no .png, .jpg, .jpeg, .webp by their names, and were not read." in said
    _load(flat)
    assert capsys.readouterr().err == said  # whoever starts a run later hears it too


def test_grey_folders_have_one_channel(tmp_path):
    for i, name in enumerate(_CLASSES):
        for j in range(5):
            _save(tmp_path / "grey" / name / f"{j}.png", 10 * i + j, kind="L")
    assert _load(tmp_path / "grey").train.images.shape[1:] == (12, 12, 1)


def _break(root, count):
    for j in range(count):
        (root / "ant" / f"broken{j}.png").write_bytes(b"no image")


def test_a_few_unreadable_files_are_named_and_left_out(tmp_path, capsys):
    for i, name in enumerate(_CLASSES):
        for j in range(70):
            _save(tmp_path / "many" / name / f"{j:02}.png", 100 * i + j, (4, 4))
    _break(tmp_path / "many", 2)
    dataset = _load(tmp_path / "many")
    assert sum(map(len, (dataset.train, dataset.validation, dataset.test))) == 210
    said = capsys.readouterr().err
    assert said.startswith("warning: left out, as they cannot be read: ") and "ant/broken0.png" in said
    assert dataset.train.images.sum((1, 2, 3)).min() > 0  # no empty image stands for a file


def test_many_unreadable_files_are_refused_and_leave_no_cache(flat, cache_dir):
    _break(flat, 2)
    with pytest.raises(UserError, match=r"2 of 62 files cannot be read, e.g. ant/broken\d.png; accepted: at most 1%"):
        _load(flat)
    assert list(cache_dir.iterdir()) == []


def test_images_that_are_in_two_splits_are_reported(split, capsys):
    shutil.copy(split / "train" / "bee" / "00.png", split / "test" / "bee" / "copy.png")
    shutil.copy(split / "test" / "cat" / "01.png", split / "validation" / "cat" / "copy.png")
    _load(split)
    said = capsys.readouterr().err
    assert "warning: 1 images of test are in train too, e.g. test/bee/copy.png is train/bee/00.png." in said
    assert "warning: 1 images of test are in validation too, e.g. test/cat/01.png is validation/cat/copy.png." in said


def _without(root, place):
    shutil.rmtree(root / place)


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (
            lambda root: [_without(root, name) for name in _CLASSES[1:]],
            "has one class, ant; accepted: a folder for each",
        ),
        (lambda root: [_without(root, name) for name in _CLASSES], "has no class; accepted: a folder for each of two"),
        (lambda root: [path.unlink() for path in (root / "bee").iterdir()], "bee has no image; accepted: .png, .jpg"),
        (lambda root: [path.write_bytes(b"") for path in root.rglob("*.png")], "none of its 60 files can be read"),
    ],
    ids=["one class", "no class", "empty class", "nothing readable"],
)
def test_what_is_no_data_set_is_one_line(flat, prepare, says):
    prepare(flat)
    with pytest.raises(UserError, match=says) as refused:
        _load(flat)
    assert "\n" not in str(refused.value)


def test_splits_must_fit_each_other(split):
    _save(split / "test" / "dog" / "0.png", 1)
    with pytest.raises(UserError, match="test has the class dog, which train has not"):
        _load(split)
    shutil.rmtree(split / "test")
    with pytest.raises(UserError, match="has splits but no test; accepted: train and test"):
        _load(split)
    (split / "test").mkdir()
    with pytest.raises(UserError, match="test has no image"):
        _load(split)


@pytest.mark.parametrize(
    ("directory", "says"),
    [
        ("", "config.data.dir='' with config.data.name=folder"),
        ("/nowhere/at/all", "does not exist; accepted: a folder"),
    ],
)
def test_a_directory_is_needed(directory, says):
    with pytest.raises(UserError, match=says):
        _load(directory)


def test_fractions_that_leave_nothing_are_refused(flat):
    with pytest.raises(UserError, match="test_fraction=0.999 leaves a split of the 60 images"):
        _load(flat, test_fraction=0.999)


def test_a_damaged_cache_is_rebuilt(flat, cache_dir, capsys):
    whole = _load(flat)
    (path,) = cache_dir.glob("*/train_images.npy")
    path.write_bytes(path.read_bytes()[:-3])
    again = _load(flat)
    assert "is damaged" in capsys.readouterr().err
    np.testing.assert_array_equal(np.asarray(again.train.images), np.asarray(whole.train.images)[: len(again.train)])


def test_a_cache_that_cannot_be_written_says_how_much_it_needs(flat, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EANET_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written .* accepted: EANET_CACHE_DIR with room for 0 MiB"):
        _load(flat)
