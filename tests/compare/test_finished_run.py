"""Finished runs are read, and what is damaged is one line."""

import numpy as np
import pytest

from eanet.compare import finished_run
from eanet.errors import UserError
from helpers.finished_runs import answers, change_json, make_config, read_comparison, write_arm, write_run


def test_a_run_made_twice_counts_once(tmp_path):
    config = make_config()
    for name in ("a", "b"):
        write_run(tmp_path / name, config, answers(0.4, 0))
    write_run(tmp_path / "c", config, answers(0.5, 0))
    result = read_comparison(tmp_path)
    assert [[run.workdir.name for run in arm.runs] for arm in result.arms] == [["a"]]
    said = ["b repeats a, with the same accuracies, and counts once.", "c repeats a, with OTHER accuracies, and counts"]
    assert len(result.notes) == 2 and all(note.startswith(text) for note, text in zip(result.notes, said, strict=True))
    assert result.arms[0].name == "all runs"
    runs, _ = finished_run.find_runs([tmp_path, tmp_path / "a", tmp_path / "a" / ".." / "b"])
    assert len(runs) == 3  # a directory that is named twice is read once


def test_unfinished_runs_are_left_out(tmp_path):
    write_arm(tmp_path, "eanet", {0: 0.4})
    (unfinished,) = write_arm(tmp_path, "vit", {0: 0.4})
    (unfinished / "results.json").unlink()
    (unfinished / "predictions.npz").unlink()
    result = read_comparison(tmp_path)
    assert len(result.arms) == 1 and result.notes == [f"{unfinished.name} is not finished and was left out."]
    with pytest.raises(UserError, match="no finished run under"):
        finished_run.find_runs([unfinished])


def _object_array(path):
    np.savez(path, accuracy=np.array([_Harmful(path.with_name("harmed"))], object), label=[0], class_name=["a"])


def _change_npz(path, **arrays):
    np.savez(path, **dict(np.load(path, allow_pickle=False)) | arrays)


class _Harmful:
    """Writes a file where it is unpickled."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return (open, (str(self._path), "w"))


_DAMAGE = {
    "predictions.npz": {
        "empty": lambda path: path.write_bytes(b""),
        "cut short": lambda path: path.write_bytes(path.read_bytes()[:-300]),
        "overwritten": lambda path: path.write_bytes(path.read_bytes()[:120] + bytes(80) + path.read_bytes()[200:]),
        "not an archive": lambda path: path.write_bytes(b"no archive at all"),
        "one array": lambda path: np.save(path.open("wb"), np.zeros(3)),
        "missing": lambda path: path.unlink(),
        "older": lambda path: np.savez(path, accuracy=np.ones(3), label=np.zeros(3, int)),
        "pickled": _object_array,
        "of text": lambda path: _change_npz(path, accuracy=np.array(["right"] * 400)),
        "a label too many": lambda path: _change_npz(path, label=np.zeros(401, int)),
        "a label of no class": lambda path: _change_npz(path, label=np.full(400, 10)),
        "numbers for names": lambda path: _change_npz(path, class_name=np.arange(10)),
        "a prediction of no class": lambda path: _change_npz(path, predicted=np.full(400, 10)),
        "a superclass of no name": lambda path: _change_npz(
            path, superclass_name=np.array(["a"]), superclass_of=np.ones(10, int)
        ),
        "superclasses of no class": lambda path: _change_npz(path, superclass_name=np.array(["a", "b"])),
    },
    "results.json": {
        "cut short": lambda path: path.write_text(path.read_text()[:40]),
        "a list": lambda path: path.write_text("[1, 2]"),
        "no accuracy": lambda path: change_json(path, **{"test/accuracy": None}),
        "text for a number": lambda path: change_json(path, **{"test/loss": "low"}),
        "text for seconds": lambda path: change_json(path, seconds_train="long"),
    },
    "config.json": {
        "empty object": lambda path: path.write_text("{}"),
        "cut short": lambda path: path.write_text('{"seed": 0,'),
        "older": lambda path: change_json(path, seed=None),
        "dots in names": lambda path: path.write_text('{"model.dim": 64}'),
    },
    "metrics.jsonl": {
        "no JSON": lambda path: path.write_text("{]\n"),
        "numbers": lambda path: path.write_text("1\n2\n"),
        "no curve": lambda path: path.write_text('{"epoch": 1, "val/loss": 1.0}\n'),
        "missing": lambda path: path.unlink(),
    },
    "environment.json": {
        "a list": lambda path: path.write_text("[1]"),
        "a commit alone": lambda path: change_json(path, git="f00d"),
        "numbers for devices": lambda path: change_json(path, devices=[1, 2]),
    },
}


@pytest.mark.parametrize("file, how", [(file, how) for file, damage in _DAMAGE.items() for how in damage])
def test_a_damaged_run_is_one_line(tmp_path, file, how):
    (workdir,) = write_arm(tmp_path, "eanet", {0: 0.4})
    finished_run.find_runs([tmp_path])  # before the damage
    _DAMAGE[file][how](workdir / file)
    with pytest.raises(UserError) as refused:
        finished_run.find_runs([tmp_path])
    assert workdir.name in str(refused.value) and refused.value.exit_code == 1
    assert not (workdir / "harmed").exists()


def test_directories_without_runs_are_one_line(tmp_path):
    (tmp_path / "file").touch()
    for missing in ("nowhere", "file"):
        with pytest.raises(UserError, match=f"{missing} is not a directory; accepted"):
            finished_run.find_runs([tmp_path / missing])
    with pytest.raises(UserError, match="no finished run under"):
        finished_run.find_runs([tmp_path])
