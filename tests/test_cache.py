"""The data cache: whole, or known to be damaged."""

import json
import os
import pathlib

import numpy as np
import pytest

from eanet import cache

ARRAYS = {"images": np.arange(240, dtype=np.uint8).reshape(10, 8, 3), "labels": np.arange(10, dtype=np.int32)}
META = {"mean": [1.5, 2.25], "names": ["a", "b"]}


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "below" / "set-1.0.0"
    cache.store(path, ARRAYS, META)
    return path


def assert_whole(path, arrays=ARRAYS, meta=META):
    loaded, its_meta = cache.load(path)
    assert loaded.keys() == arrays.keys() and its_meta == meta
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_what_is_stored_comes_back(stored):
    assert_whole(stored)


def test_arrays_are_mapped_and_read_only(stored):
    arrays, _ = cache.load(stored)
    for array in arrays.values():
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_no_cache_is_none(tmp_path):
    assert cache.load(tmp_path / "nothing") is None


def test_nothing_but_the_cache_is_left_behind(stored):
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]
    assert {path.name for path in stored.iterdir()} == {"images.npy", "labels.npy", "meta.json", "index.json"}


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lengthen, lambda path: path.write_bytes(b"")])
def test_array_that_is_not_what_was_written_is_named(stored, name, damage):
    damage(stored / name)
    with pytest.raises(ValueError, match=rf"{name} is not what was written"):
        cache.load(stored)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "index.json"])
def test_missing_file_is_named(stored, name):
    (stored / name).unlink()
    with pytest.raises(ValueError, match=name):
        cache.load(stored)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'"text"', b"{}", b'{"files": []}', b'{"files": {}}', b"\xff\xfe\x00"]
)
def test_broken_index_is_a_value_error_that_says_something(stored, content):
    (stored / "index.json").write_bytes(content)
    with pytest.raises(ValueError) as error:
        cache.load(stored)
    assert len(str(error.value)) > 5


def test_index_that_leaves_out_the_metadata_is_damage(stored):
    index = json.loads((stored / "index.json").read_text())
    del index["meta.json"]
    (stored / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"meta\.json"):
        cache.load(stored)


def test_file_in_the_place_of_a_cache_is_damage(tmp_path):
    (tmp_path / "set").write_text("no directory")
    with pytest.raises(ValueError):
        cache.load(tmp_path / "set")


def test_changed_metadata_is_noticed(stored):
    meta = (stored / "meta.json").read_text()
    assert "2.25" in meta
    (stored / "meta.json").write_text(meta.replace("2.25", "3.25"))
    with pytest.raises(ValueError, match=r"meta\.json is not what was written"):
        cache.load(stored)


def test_unwritable_directory_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")  # not by permissions: the root user, in a container say, ignores them
    with pytest.raises(OSError):
        cache.store(tmp_path / "file" / "set", ARRAYS, META)


def test_store_replaces_an_older_cache_and_a_damaged_one(stored):
    truncate(stored / "images.npy")
    newer = {"images": ARRAYS["images"][:4]}
    cache.store(stored, newer, {"mean": []})
    assert_whole(stored, newer, {"mean": []})


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("fails", ["save", "index"])
def test_interrupted_store_leaves_the_old_cache_and_no_rest(stored, monkeypatch, error, fails):
    reached = []

    def interrupt(*args, **kwargs):
        reached.append(len(list(stored.parent.iterdir())))
        raise error

    if fails == "save":
        monkeypatch.setattr(np, "save", interrupt)
    else:
        monkeypatch.setattr(pathlib.Path, "write_text", interrupt)
    with pytest.raises(error):
        cache.store(stored, {"images": ARRAYS["images"][:4]}, {})
    monkeypatch.undo()
    assert reached == [2]  # a half-written one was there beside the old one
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]
    assert_whole(stored)


def test_directory_is_the_variables_else_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("EANET_CACHE_DIR", str(tmp_path))
    assert cache.directory() == tmp_path
    monkeypatch.delenv("EANET_CACHE_DIR")
    assert cache.directory().is_absolute() and "eanet" in os.fspath(cache.directory())
