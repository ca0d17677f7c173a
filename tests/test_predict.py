"""Image files of all kinds through a trained run."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from eanet import predict
from eanet.data import datasets as data
from eanet.errors import UserError
from eanet.run.trained import load_run
from helpers.tiny import tiny_config


@pytest.fixture
def files(tmp_path):
    """Three digits of the test split as files of four times their size, and one that is not an image."""
    images = data.load(tiny_config().data).test.images[:3, ..., 0]
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_text("no image")
    return [str(tmp_path / name) for name in ("0.png", "bad.png", "1.png", "2.png")]


def _main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    predict.main()


def test_the_command_classifies_what_it_can_read(finished, files, monkeypatch, capsys):
    workdir, _ = finished
    with pytest.raises(UserError, match="1 of 4 images could not be read") as refused:
        _main(monkeypatch, workdir, *files, "--json")
    captured = capsys.readouterr()
    assert refused.value.exit_code == 1 and captured.err.count("\n") == 1
    assert "bad.png is not a readable image" in captured.err
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["image"] for row in rows] == [files[0], *files[2:]]
    probabilities = load_run(workdir).predict(data.load(tiny_config().data).test.images[:3])[0]
    for row, own in zip(rows, probabilities, strict=True):
        assert [one["class"] for one in row["top"]] == [str(i) for i in np.argsort(-own)[:5]]
        assert [one["probability"] for one in row["top"]] == pytest.approx(sorted(own)[:-6:-1], rel=1e-5)
        assert row["networks"] == row["agree"] == 1


def test_several_networks_are_averaged_and_counted(three_seeds, files, monkeypatch, capsys):
    workdir, _ = three_seeds
    _main(monkeypatch, workdir, files[0], "--json")
    row = json.loads(capsys.readouterr().out)
    probabilities = load_run(workdir).predict(data.load(tiny_config().data).test.images[:1])[:, 0]
    best = int(probabilities.mean(0).argmax())
    assert row["top"][0] == {"class": str(best), "probability": pytest.approx(float(probabilities.mean(0)[best]))}
    assert (row["networks"], row["agree"]) == (3, int(np.sum(probabilities.argmax(1) == best)))
    _main(monkeypatch, workdir, files[0])
    printed = capsys.readouterr().out
    assert f"{row['agree']} of 3" in printed and f"{best} {probabilities.mean(0)[best]:.1%}" in printed
