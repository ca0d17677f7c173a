"""Many networks in one program: each computes what it would alone, and the record holds all of them."""

import re
import shutil

import jax
import numpy as np
import pytest

from eanet import evaluate, train
from eanet.compare import finished_run
from eanet.data import datasets as data
from eanet.errors import UserError
from eanet.run.rows import rows_of
from eanet.training import members, metrics, sharding
from eanet.training.members import Member
from eanet.training.trainer import Trainer
from helpers.runs import rows
from helpers.tiny import tiny_config

GRID = {"num_seeds": 2, "vary__learning_rate": (3e-4, 1e-2), "vary__label_smoothing": (0.0, 0.3)}
_WIDE = GRID | {"vary__weight_decay": (0.0, 0.5), "optimizer__warmup_epochs": 0.5, "optimizer__schedule": "cosine"}
_MORE = ({"model__attention": "self"}, {"train__microbatch": 8})


def _bits(config, num_steps=4):
    """The parameters of every member after some steps, as bytes, and its validation loss."""
    dataset = data.load(config.data)
    trainer = Trainer(config, dataset, sharding.make_mesh(len(members.members_from_config(config.to_dict()))))
    state, arrays = trainer.init(), trainer.put(dataset.train)
    trainer.compile_training(*arrays)
    state, *_ = trainer.train(state, *arrays, num_steps)
    losses = trainer.evaluate(state.params, *trainer.put(dataset.validation))["loss"]
    leaves = jax.tree.leaves(state.params)
    return {
        member.name: (b"".join(np.asarray(leaf[i]).tobytes() for leaf in leaves), losses[i].tobytes())
        for i, member in enumerate(trainer.members)
    }


def test_members_are_seeds_times_a_grid():
    config = tiny_config(seed=7, **GRID).to_dict()
    found = members.members_from_config(config)
    assert [member.seed for member in found] == [7, 8] * 4
    assert [member.point for member in found[::2]] == [
        *("learning_rate=0.0003,label_smoothing=0", "learning_rate=0.0003,label_smoothing=0.3"),
        *("learning_rate=0.01,label_smoothing=0", "learning_rate=0.01,label_smoothing=0.3"),
    ]
    assert found[3].name == "learning_rate=0.0003,label_smoothing=0.3/seed_8"
    assert members.members_from_config(tiny_config(seed=7).to_dict()) == [Member(7)] and Member(7).name == "seed_7"


def test_a_member_has_the_configuration_of_a_run_of_its_own():
    config = tiny_config(seed=7, **GRID)
    alone = members.fields(config.to_dict(), members.members_from_config(config.to_dict())[3])
    assert alone == tiny_config(seed=8, optimizer__learning_rate=3e-4, train__label_smoothing=0.3).to_dict()
    assert config.to_dict() == tiny_config(seed=7, **GRID).to_dict()  # untouched


@pytest.mark.parametrize("overrides", [{}, *(pytest.param(one, marks=pytest.mark.system) for one in _MORE)])
def test_a_seed_of_a_group_computes_the_bits_of_a_run_alone(overrides):
    together = _bits(tiny_config(num_seeds=3, **overrides))
    assert len(set(together.values())) == 3
    for seed in (0, 2):
        assert _bits(tiny_config(seed=seed, **overrides)) == {f"seed_{seed}": together[f"seed_{seed}"]}


def test_what_varies_computes_the_bits_of_a_run_with_those_values():
    """All three at once: 16 networks, of which two with other values of each are trained alone."""
    config = tiny_config(**_WIDE)
    together = _bits(config)
    assert len(set(together.values())) == 16
    grid = members.members_from_config(config.to_dict())
    settings = {name: value for name, value in _WIDE.items() if name.startswith("optimizer")}
    for index in (2, 13):
        fields = {members.VARIED[name].replace(".", "__"): value for name, value in grid[index].varied}
        alone = _bits(tiny_config(seed=grid[index].seed, **fields, **settings))
        assert list(alone.values()) == [together[grid[index].name]]
    assert not set(grid[2].varied) & set(grid[13].varied) and grid[2].seed != grid[13].seed


def test_what_is_fixed_is_seed_0s_in_every_network():
    every = _bits(tiny_config(num_seeds=2, fixed=("init", "order", "augment", "dropout")))
    assert every["seed_0"] == every["seed_1"] and _bits(tiny_config()) == {"seed_0": every["seed_0"]}


@pytest.mark.system
def test_what_is_not_fixed_is_the_seeds_own():
    ordered = _bits(tiny_config(num_seeds=2, fixed=("init", "augment", "dropout")))
    assert _bits(tiny_config()) == {"seed_0": ordered["seed_0"]} and ordered["seed_0"] != ordered["seed_1"]


def _gradients(config):
    """Each member's gradient of the first step: Adam's first moment is a tenth of it."""
    dataset = data.load(config.data)
    trainer = Trainer(config, dataset, sharding.make_mesh(len(members.members_from_config(config.to_dict()))))
    state, arrays = trainer.init(), trainer.put(dataset.train)
    trainer.compile_training(*arrays)
    state, *_ = trainer.train(state, *arrays, 1)
    return jax.tree.map(np.asarray, state.opt_state[0].mu)


@pytest.mark.parametrize("at_once", [8, pytest.param(2, marks=pytest.mark.system)])
def test_members_at_once_or_one_after_another_differ_by_rounding_alone(at_once):
    """2 of 3 leaves a remainder."""
    apart = _gradients(tiny_config(num_seeds=3))
    together = _gradients(tiny_config(num_seeds=3, seeds_per_call=at_once))
    for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert max(np.abs(theirs[0] - theirs[1]).max() for theirs in jax.tree.leaves(apart)) > 1e-2


def test_a_call_of_many_steps_moves_nothing_between_host_and_device():
    dataset = data.load(tiny_config().data)
    trainer = Trainer(tiny_config(), dataset, sharding.make_mesh())
    state, arrays = trainer.init(), trainer.put(dataset.train)
    trainer.compile_training(*arrays)
    state, *_ = trainer.train(state, *arrays, 4)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        trainer.train(state, dataset.train.images, arrays[1], 4)


def test_rows_hold_means_intervals_and_every_seed(three_seeds):
    workdir, _ = three_seeds
    for row in rows(workdir):
        for metric in ("train/loss", "val/accuracy", "val/accuracy_best"):
            values = [row[f"seed_{seed}/{metric}"] for seed in (5, 6, 7)]
            mean, deviation = np.mean(values), np.std(values, ddof=1)
            assert row[metric] == pytest.approx(mean) and row[f"{metric}_std"] == pytest.approx(deviation)
            half = 4.302652730 * deviation / np.sqrt(3)  # Student's t, 2 degrees of freedom
            assert row[f"{metric}_low"] == pytest.approx(mean - half, rel=1e-6)
            assert row[f"{metric}_high"] == pytest.approx(mean + half, rel=1e-6)
        assert row["num_seeds"] == 3 and "val/epoch_best_std" not in row
        assert row["train/learning_rate"] == pytest.approx(row["seed_6/train/learning_rate"])


def test_rows_and_results_of_a_seed_are_those_of_a_run_alone(three_seeds, tmp_path):
    workdir, results = three_seeds
    alone = train.train(tiny_config(seed=6), tmp_path / "alone")
    trainer = [Member(seed) for seed in (5, 6, 7)]
    assert rows_of(rows(workdir), trainer, Member(6)) == rows(tmp_path / "alone")
    entry = results["members"][1]
    assert entry.pop("seed") == 6 and entry == {name: alone[name] for name in entry}
    assert {"test/loss", "test/accuracy", "val/accuracy_best"} <= entry.keys()
    assert results["test/accuracy"] == pytest.approx(np.mean([one["test/accuracy"] for one in results["members"]]))


def test_a_group_is_compared_as_its_seeds(three_seeds, tmp_path):
    """And counts no seed twice where it was run alone too."""
    workdir, results = three_seeds
    shutil.copytree(workdir, tmp_path / "trainer")
    train.train(tiny_config(seed=6), tmp_path / "alone")
    runs, notes = finished_run.find_runs([tmp_path])
    assert [run.seed for run in runs] == [6, 5, 6, 7] and not notes
    assert [run.name for run in runs] == ["alone", "trainer/seed_5", "trainer/seed_6", "trainer/seed_7"]
    alone, again = runs[0], runs[2]
    assert alone.fields == again.fields and alone.results["test/loss"] == again.results["test/loss"]
    np.testing.assert_array_equal(alone.correct, again.correct)
    assert [row["val/loss"] for row in alone.rows] == [row["val/loss"] for row in again.rows]
    assert again.results["seconds_train"] == pytest.approx(results["seconds_train"] / 3)
    assert again.results["images_per_second"] == results["images_per_second"]


def test_evaluation_covers_every_seed(three_seeds, capsys):
    workdir, results = three_seeds
    result = evaluate.evaluate(workdir, "test")
    for name in metrics.NAMES:
        assert result[name] == pytest.approx(results[f"test/{name}"])
        assert result[f"seed_7/{name}"] == results[f"seed_7/test/{name}"]
    by_class = [value for value in result["accuracy_by_class"].values() if value is not None]
    assert len(by_class) == 10 and np.ptp(by_class) > 0
    evaluate._print(result)
    assert "95%" in capsys.readouterr().out


def test_an_interrupted_group_goes_on_to_the_same_bits(three_seeds, tmp_path, monkeypatch):
    workdir, _ = three_seeds
    save = train.Run._save

    def crash(self):
        save(self)
        if self._clock.step == 4:
            self._checkpoints.close()
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(train.Run, "_save", crash)
        train.train(tiny_config(num_seeds=3, seed=5), tmp_path / "run")
    train.train(tiny_config(num_seeds=3, seed=5), tmp_path / "run")
    assert rows(tmp_path / "run") == rows(workdir)
    ours, theirs = (np.load(path / "predictions.npz") for path in (tmp_path / "run", workdir))
    assert ours["loss"].shape == (3, 360)
    np.testing.assert_array_equal(ours["loss"], theirs["loss"])


@pytest.fixture
def breaking(monkeypatch):
    """Make the parameters of the named members infinite when a run starts."""

    def arrange(*indices):
        init = Trainer.init

        def broken(self, params=None):
            state = init(self, params)
            sick = np.isin(np.arange(len(self.members)), indices)
            spoil = lambda x: jax.numpy.where(sick.reshape(-1, *[1] * (x.ndim - 1)), np.inf, x)  # noqa: E731
            params = jax.tree.map(spoil, state.params)
            return state.replace(params=jax.device_put(params, sharding.by_member(self.mesh)))

        monkeypatch.setattr(Trainer, "init", broken)

    return arrange


def test_a_seed_that_diverges_is_marked_and_the_others_go_on(three_seeds, tmp_path, breaking, capsys):
    breaking(1)
    results = train.train(tiny_config(num_seeds=3, seed=5), tmp_path / "run")
    assert "seed_6: loss or gradient is not finite at step 0 " in capsys.readouterr().out
    assert results["members"][1] == {"seed": 6, "diverged_at_step": 0}
    healthy, broken = rows(three_seeds[0]), rows(tmp_path / "run")
    for row, other in zip(broken, healthy, strict=True):
        assert row["num_seeds"] == 2 and not any(name.startswith("seed_6/") for name in row)
        for seed in (5, 7):
            assert row[f"seed_{seed}/val/loss"] == other[f"seed_{seed}/val/loss"]
        assert row["val/loss"] == pytest.approx(np.mean([row[f"seed_{seed}/val/loss"] for seed in (5, 7)]))
    assert "NaN" not in (tmp_path / "run" / "results.json").read_text()
    runs, notes = finished_run.find_runs([tmp_path / "run"])
    assert [run.seed for run in runs] == [5, 7]
    assert notes == ["run/seed_6 diverged at step 0 and was left out."]
    assert "seed_6/loss" not in evaluate.evaluate(tmp_path / "run", "test")


@pytest.mark.system
def test_a_learning_rate_that_explodes_is_marked_and_the_others_go_on(tmp_path, capsys):
    config = tiny_config(vary__learning_rate=(500.0, 1e-3), optimizer__schedule="constant")
    results = train.train(config, tmp_path / "run")
    assert re.search(
        r"learning_rate=500/seed_0: loss [\d.e+]+ is far above .* the others continue", capsys.readouterr().out
    )
    assert results["members"][0]["diverged_at_step"] in range(1, 8)
    alone = train.train(tiny_config(optimizer__schedule="constant", optimizer__learning_rate=1e-3), tmp_path / "alone")
    assert results["learning_rate=0.001/test/loss"] == alone["test/loss"]


def test_a_run_whose_seeds_all_diverge_stops(tmp_path, breaking):
    breaking(0, 1, 2)
    with pytest.raises(UserError, match="seed_7, the last member .* not finite at step 0 ") as stop:
        train.train(tiny_config(num_seeds=3, seed=5), tmp_path / "run")
    assert stop.value.exit_code == 1 and not (tmp_path / "run" / "results.json").exists()


def test_a_grid_has_a_summary_of_each_point_and_none_over_all(tmp_path, capsys):
    config = tiny_config(**_WIDE)
    results = train.train(config, tmp_path / "run")
    point = "learning_rate=0.01,weight_decay=0.5,label_smoothing=0.3"
    wanted = {"learning_rate": 0.01, "weight_decay": 0.5, "label_smoothing": 0.3}
    ours = [one for one in results["members"] if one.items() >= wanted.items()]
    assert [one["seed"] for one in ours] == [0, 1] and "test/accuracy" not in results
    assert results[f"{point}/test/accuracy"] == pytest.approx(np.mean([one["test/accuracy"] for one in ours]))
    printed = capsys.readouterr().out
    assert f"{point}: test loss" in printed and "step 4  best of 8, learning_rate=" in printed
    runs, _ = finished_run.find_runs([tmp_path])
    assert len(runs) == 16 and {run.fields["train.label_smoothing"] for run in runs} == {0.0, 0.3}
    train.train(config, tmp_path / "run")
    assert "finished" in capsys.readouterr().out


def test_a_grid_of_one_value_is_a_run_like_any_other(tmp_path, capsys):
    config = tiny_config(train__epochs=1, vary__learning_rate=(1e-3,))
    results = train.train(config, tmp_path)
    said = f"Test: loss {results['test/loss']:.4f}"
    assert said in capsys.readouterr().out
    assert train.train(config, tmp_path) == results and said in capsys.readouterr().out  # finished
    assert members.points(members.members_from_config(config.to_dict())) == [""]
