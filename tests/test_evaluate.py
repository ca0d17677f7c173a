"""The stand-alone evaluation of a run."""

import json

import pytest

from eanet import evaluate, train
from eanet.errors import UserError
from eanet.training import metrics
from helpers.tiny import tiny_config


@pytest.mark.parametrize(("split", "prefix", "examples"), [("test", "test", 360), ("validation", "val", 288)])
def test_evaluation_repeats_what_the_run_recorded(finished, split, prefix, examples):
    workdir, results = finished
    result = evaluate.evaluate(workdir, split)
    assert (result["examples"], result["step"]) == (examples, 8)
    for name in metrics.NAMES:
        assert result[name] == pytest.approx(results[f"{prefix}/{name}"], rel=1e-6)
    assert json.loads((workdir / f"evaluation-{split}.json").read_text()) == result


def test_a_limit_of_evaluation_is_named_in_every_result(tmp_path, capsys, monkeypatch):
    results = train.train(tiny_config(data__eval_limit=40, train__epochs=1), tmp_path)
    assert results["eval_limit"] == json.loads((tmp_path / "results.json").read_text())["eval_limit"] == 40
    assert "Test (first 40 images): loss" in capsys.readouterr().out
    result = evaluate.evaluate(tmp_path, "validation")
    assert (result["examples"], result["eval_limit"], result["loss"]) == (40, 40, results["val/loss"])
    evaluate._print(result)
    assert capsys.readouterr().out.startswith("validation, first 40 images, ")


def test_class_accuracies_average_to_the_accuracy(finished):
    workdir, _ = finished
    result = evaluate.evaluate(workdir, "test")
    assert set(result["accuracy_by_class"]) == set("0123456789")
    correct = sum(
        accuracy * count for accuracy, count in zip(result["accuracy_by_class"].values(), _counts(), strict=True)
    )
    assert correct / 360 == pytest.approx(result["accuracy"])


def _counts():
    import numpy as np

    from eanet.data import datasets as data

    return np.bincount(data.load(tiny_config().data).test.labels)


def test_a_directory_without_a_run_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        evaluate.evaluate(tmp_path, "test")


def test_a_run_without_a_checkpoint_is_an_error(tmp_path):
    from eanet.run.record import Record

    record = Record(tmp_path)
    record.open(tiny_config().to_dict())
    record.begin(tiny_config().to_dict(), 0, 0)
    with pytest.raises(UserError, match="no checkpoint"):
        evaluate.evaluate(tmp_path, "test")
