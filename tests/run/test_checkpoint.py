"""Checkpoints: what is saved comes back, and what is damaged is never used."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from eanet import train
from eanet.data import datasets as data
from eanet.errors import UserError
from eanet.evaluate import evaluate
from eanet.run.checkpoint import Checkpoints
from eanet.training import sharding
from eanet.training.trainer import Trainer
from helpers.tiny import tiny_config


@pytest.fixture(scope="module")
def config():
    return tiny_config()


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """The directory of a finished run with the checkpoints 4 and 8."""
    workdir = tmp_path_factory.mktemp("trained")
    train.train(config, workdir)
    return workdir


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it, to be damaged; without results, so that it goes on."""
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    (workdir / "results.json").unlink()
    return workdir


@pytest.fixture(scope="module")
def shapes(config):
    return Trainer(config, data.load(config.data), sharding.make_mesh()).shapes


def _restore(workdir, shapes, config, read_only=True):
    state, extra = Checkpoints(workdir / "checkpoints", read_only=read_only).restore(shapes, config.to_dict())
    return jax.tree.map(np.asarray, state), extra


def _assert_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def _files(directory):
    """Return every file that holds something."""
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_size)


def _contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


_DAMAGES = {"flipped": _flip, "truncated": _truncate, "missing": pathlib.Path.unlink}


@pytest.mark.parametrize(
    "damage", ["flipped", *(pytest.param(x, marks=pytest.mark.system) for x in _DAMAGES if x != "flipped")]
)
def test_damage_to_any_file_of_the_newest_checkpoint_never_changes_a_bit(
    trained, tmp_path, shapes, config, capsys, damage
):
    """Files with notes of Orbax's alone may be lost; with any other the checkpoint before is restored."""
    whole = {8: _restore(trained, shapes, config)}
    shutil.copytree(trained, tmp_path / "older")
    shutil.rmtree(tmp_path / "older" / "checkpoints" / "8")
    whole[4] = _restore(tmp_path / "older", shapes, config)
    assert [int(state.step[0]) for state, _ in whole.values()] == [8, 4]
    seen = []
    for file in _files(trained / "checkpoints" / "8"):
        copy = tmp_path / "copy"
        shutil.copytree(trained, copy)
        _DAMAGES[damage](copy / file.relative_to(trained))
        state, extra = _restore(copy, shapes, config)
        seen.append(int(state.step[0]))
        _assert_equal(state, whole[seen[-1]][0])
        assert extra == whole[seen[-1]][1]
        error = capsys.readouterr().err
        assert ("checkpoint 8 is damaged and left out" in error) == (seen[-1] == 4)
        assert error.count("\n") == (seen[-1] == 4)
        shutil.rmtree(copy)
    assert {4, 8} == set(seen)


def _damage(workdir, step):
    """Damage the numbers themselves."""
    for file in _files(workdir / "checkpoints" / str(step) / "state"):
        if file.parent.name == "d":
            _flip(file)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(run, trained, shapes, config, capfd):
    _damage(run, 8)
    damaged = _contents(run / "checkpoints" / "8")
    train.train(config, run)
    out, error = capfd.readouterr()
    assert "Going on from step 4 of 8" in out
    assert f"checkpoint 8 is damaged and moved to {run / 'damaged-checkpoint-8'}: " in error
    assert len(error.splitlines()) == 1 and len(error) < 500
    assert _contents(run / "damaged-checkpoint-8") == damaged
    _assert_equal(_restore(run, shapes, config)[0], _restore(trained, shapes, config)[0])


def test_a_second_damaged_checkpoint_does_not_replace_the_first(run, shapes, config):
    for number in ("", "-2", "-3"):
        shutil.copytree(run / "checkpoints" / "4", run / "checkpoints" / "12")
        _damage(run, 12)
        (run / "checkpoints" / "12" / "mark").write_text(number)
        _restore(run, shapes, config, read_only=False)
        assert (run / f"damaged-checkpoint-12{number}" / "mark").read_text() == number


def test_without_a_whole_checkpoint_the_run_stops_and_nothing_is_changed(run, config):
    for step in (4, 8):
        _damage(run, step)
    before = _contents(run)
    with pytest.raises(
        UserError, match=r"no checkpoint in .*checkpoints can be used \(8: .*; 4: .*\); nothing was ch"
    ) as stop:
        train.train(config, run)
    assert stop.value.exit_code == 1
    assert _contents(run) == before


def test_an_emptied_checkpoint_is_a_damaged_one(run, config, capfd):
    for path in (run / "checkpoints" / "8").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    train.train(config, run)
    assert "Going on from step 4 of 8" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"model__depth": 2}, r"config\.model\.depth is 1 there and 2 here"),
        ({"optimizer__learning_rate": 1e-4}, r"config\.optimizer\.learning_rate is 0.003 there and 0.0001 here"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(run, overrides, says):
    """Even where config.json does not tell, because it was lost."""
    (run / "config.json").unlink()
    before = _contents(run)
    with pytest.raises(UserError, match=says) as stop:
        train.train(tiny_config(**overrides), run)
    assert stop.value.exit_code == 2
    assert _contents(run) == before
    assert train.train(tiny_config(), run)["steps"] == 8  # and the right one still goes on


def test_evaluation_leaves_a_damaged_checkpoint_where_it_is(run, config, capfd):
    _damage(run, 8)
    before = _contents(run)
    assert evaluate(run, "validation")["step"] == 4
    assert "checkpoint 8 is damaged and left out" in capfd.readouterr().err
    after = _contents(run)
    assert json.loads(after.pop(pathlib.Path("evaluation-validation.json")))["step"] == 4
    assert after == before
