"""Records of other versions: fields come and go, and runs are still resumed, evaluated and compared."""

import json
import signal

import ml_collections
import pytest

from eanet import cli, evaluate, train
from eanet.compare import finished_run
from eanet.config import rules, stored
from eanet.errors import UserError
from helpers.finished_runs import answers, make_config, read_comparison, write_run
from helpers.tiny import tiny_config


@pytest.fixture
def later(monkeypatch):
    """Let this be a version with one field more, model.feature_power; gives a way back to the version before."""
    defaults, known = stored._defaults(), rules.RULES
    more = defaults | {"model": defaults["model"] | {"feature_power": 1.0}}
    monkeypatch.setattr(stored, "_defaults", lambda: more)
    monkeypatch.setattr(rules, "RULES", known | {"model.feature_power": rules._number(0, 9)})

    def back():
        monkeypatch.setattr(stored, "_defaults", lambda: defaults)
        monkeypatch.setattr(rules, "RULES", known)

    return back


def with_power(config, value=1.0):
    """Return a configuration as the later version has it."""
    return ml_collections.ConfigDict(config.to_dict() | {"model": config.model.to_dict() | {"feature_power": value}})


def interrupted(config, workdir, monkeypatch):
    """Train until the end of the first epoch."""

    class AskedAtOnce(train.Interruption):
        received = property(lambda self: signal.SIGTERM, lambda self, value: None)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(train, "Interruption", AskedAtOnce)
        train.train(config, workdir)
    assert not (workdir / "results.json").exists()
    return workdir


def test_a_run_from_before_a_field_goes_on(tmp_path, monkeypatch, request):
    workdir = interrupted(tiny_config(), tmp_path, monkeypatch)
    request.getfixturevalue("later")
    with pytest.raises(UserError, match=r"holds another run: config\.model\.feature_power is 1\.0 there and 2\.0 here"):
        train.train(with_power(tiny_config(), 2.0), workdir)
    config = with_power(tiny_config())
    results = train.train(config, workdir)
    assert results["steps"] == 8
    assert json.loads((workdir / "config.json").read_text())["model"]["feature_power"] == 1.0
    assert evaluate.evaluate(workdir, "test")["accuracy"] == results["test/accuracy"]


def test_a_run_from_before_a_field_was_retired_goes_on(tmp_path, monkeypatch, later):
    workdir = interrupted(with_power(tiny_config()), tmp_path, monkeypatch)
    later()
    unknown = r"config\.model\.feature_power=1\.0: no such field in this version"
    for refused in (lambda: train.train(tiny_config(), workdir), lambda: evaluate.evaluate(workdir, "test")):
        with pytest.raises(UserError, match=unknown):
            refused()
    monkeypatch.setattr(stored, "RETIRED", {"model.feature_power": 1.0})
    results = train.train(tiny_config(), workdir)
    assert results["steps"] == 8
    assert "feature_power" not in json.loads((workdir / "config.json").read_text())["model"]
    assert evaluate.evaluate(workdir, "test")["accuracy"] == results["test/accuracy"]


def test_a_retired_field_with_another_value_is_refused(tmp_path, monkeypatch, later):
    workdir = interrupted(with_power(tiny_config(), 2.0), tmp_path, monkeypatch)
    later()
    monkeypatch.setattr(stored, "RETIRED", {"model.feature_power": 1.0})
    for refused in (lambda: train.train(tiny_config(), workdir), lambda: evaluate.evaluate(workdir, "test")):
        with pytest.raises(UserError, match=r"feature_power=2\.0 is of an earlier version; .* old default, 1\.0"):
            refused()


def test_runs_of_two_versions_are_compared(tmp_path, request):
    old, new, other = (make_config("eanet", seed=seed) for seed in range(3))
    write_run(tmp_path / "old", old, answers(0.5, [0]))
    request.getfixturevalue("later")
    write_run(tmp_path / "new", with_power(new), answers(0.5, [1]))
    assert len(read_comparison(tmp_path).arms) == 1  # two seeds of one arm
    write_run(tmp_path / "other", with_power(other, 2.0), answers(0.5, [2]))
    assert len(read_comparison(tmp_path).arms) == 2
    assert {run.fields["model.feature_power"] for run in finished_run.find_runs([tmp_path])[0]} == {1.0, 2.0}


def test_a_new_field_moves_no_directory_until_it_is_used(later):
    new = cli.default_workdir("configs/digits.py", with_power(tiny_config()))
    used = cli.default_workdir("configs/digits.py", with_power(tiny_config(), 2.0))
    later()
    assert cli.default_workdir("configs/digits.py", tiny_config()) == new != used
