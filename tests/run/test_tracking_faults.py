"""Whatever W&B raises, a run goes on: its client stands in for itself here, the real one is in test_wandb_faults.py."""

import types

import pytest

from eanet.run import tracking
from eanet.run.record import Record
from helpers.tiny import tiny_config


class _FakeRun:
    """A run of W&B of which one method fails; it keeps what the others get."""

    id, offline, sync_dir, url = "fake", False, "wandb/run-fake", ""

    def __init__(self, broken="", error=None):
        self.rows, self.facts, self.numbers, self.ended = [], {}, {}, None
        self._broken, self._error = broken, error
        self.config = types.SimpleNamespace(update=lambda facts, **_: self._do("config", self.facts.update, facts))
        self.summary = types.SimpleNamespace(update=lambda some: self._do("summary", self.numbers.update, some))

    def _do(self, name, action, *arguments):
        if name == self._broken:
            raise self._error
        action(*arguments)

    def define_metric(self, *_, **__):
        self._do("define_metric", lambda: None)

    def log(self, row):
        self._do("log", self.rows.append, row)

    def finish(self, exit_code):
        self._do("finish", setattr, self, "ended", exit_code)


_ERRORS = [OSError(28, "No space left on device"), BrokenPipeError(), AssertionError(), KeyError("x"), TimeoutError()]


@pytest.mark.parametrize("method", ["config", "log", "summary", "finish"])
@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_wandb_raises_the_run_is_written_again(tmp_path, capsys, method, error):
    record, again = Record(tmp_path), _FakeRun()
    tracker = tracking.Tracker(_FakeRun(method, error), tmp_path, lambda run_id: again)
    tracker.describe({"parameters": 3})
    rows = [{"step": step, "epoch": float(step)} for step in (1, 2, 3)]
    for row in rows:
        record.append(row)
        tracker.log(row)
    tracker.finish({"test/accuracy": 0.5}, exit_code=7)
    assert (again.rows, again.facts, again.numbers) == (rows, {"parameters": 3}, {"test/accuracy": 0.5})
    assert again.ended == 7
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: W&B: ") and "wandb sync" in line
    assert type(error).__name__ in line


@pytest.mark.parametrize("method", ["define_metric", "log", "finish"])
def test_where_it_cannot_be_written_again_either_the_run_still_ends_well(tmp_path, capsys, method):
    def reopen(run_id):
        return _FakeRun(method, OSError(28, "No space left on device"))

    tracker = tracking.Tracker(reopen(""), tmp_path, reopen)
    Record(tmp_path).append({"step": 1, "epoch": 1.0})
    tracker.log({"step": 1, "epoch": 1.0})
    tracker.finish({}, exit_code=0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (method != "define_metric")
    assert all("not for W&B (OSError: [Errno 28] No space left on device)" in line for line in lines)


@pytest.mark.system
@pytest.mark.parametrize("broken", ["init", "define_metric", "setup", "login"])
def test_whatever_wandb_raises_at_the_start_the_run_goes_on(tmp_path, capsys, monkeypatch, broken):
    import wandb

    def fail(*_, **__):
        raise RuntimeError("no luck\nat all")

    fake = _FakeRun(broken, RuntimeError("no luck"))
    monkeypatch.setattr(wandb, "init", fail if broken == "init" else lambda **_: fake)
    if broken in ("setup", "login"):
        monkeypatch.setattr(wandb, broken, fail)
    tracker = tracking.start(tiny_config(wandb__mode="auto").to_dict(), tmp_path, "", primary=True)
    assert tracker.run_id == ("fake" if broken == "login" else "")
    tracker.log({"step": 1, "epoch": 1.0})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: W&B: RuntimeError: no luck; ")


@pytest.mark.parametrize("offline", [False, True])
def test_rows_that_the_server_has_are_not_sent_again_and_those_it_lacks_are(offline):
    """An offline part knows nothing of the server, and holds what it was given."""
    sent = []
    run = types.SimpleNamespace(offline=offline, summary={"step": 8}, log=lambda row: sent.append(row["step"]))
    tracker = tracking.Tracker(run)
    tracker.catch_up([{"step": 4}, {"step": 8}, {"step": 12}])  # of a run that goes on from its checkpoint at 12
    tracker.log({"step": 16})
    assert sent == ([16] if offline else [12, 16])
    sent.clear()
    run.summary["step"] = 20  # the server has seen more than the checkpoint
    tracker.catch_up([{"step": 4}])
    for step in (8, 20, 24):
        tracker.log({"step": step})
    assert sent == ([8, 20, 24] if offline else [24])
