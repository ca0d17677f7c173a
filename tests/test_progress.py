"""What a run shows while it runs, and the picture it leaves."""

import math

import matplotlib.image
import pytest

from eanet import curves, progress
from eanet.members import Member


def _row(epoch, **more):
    row = {"step": 10 * epoch, "epoch": float(epoch), "train/images_per_second": 99.6}
    for split in ("train", "val"):
        row |= {f"{split}/loss": 4.0 / epoch, f"{split}/accuracy": 0.1 * epoch, f"{split}/top5_accuracy": 0.2 * epoch}
    return row | more


def test_off_a_terminal_an_epoch_is_a_line_and_a_part_of_one_is_none(capsys):
    with progress.RunProgress(epochs=2, steps_per_epoch=10, step=0) as bar:
        bar.update(5, {name: value for name, value in _row(1).items() if not name.startswith("val")})
        bar.update(10, _row(1))
        bar.update(20, _row(2))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for part in ("epoch 1/2", "step 10", "loss 4.0000", "accuracy 10.00%", "val loss 4.0000", "100 images/s"):
        assert part in lines[0]


def test_other_processes_show_nothing(capsys):
    with progress.RunProgress(2, 10, 0, show=False) as bar:
        bar.update(10, _row(1))
        bar.say("hello")
    assert not capsys.readouterr().out


@pytest.mark.parametrize("epochs", [1, 3, 50])
def test_curves_are_drawn_whatever_the_number_of_epochs(tmp_path, epochs):
    rows = [_row(epoch + 1) for epoch in range(epochs)]
    curves.draw(rows, tmp_path / "curves.png", "a <title> & more", 100, [Member(0)])
    image = matplotlib.image.imread(tmp_path / "curves.png")
    assert image.shape[:2] == (480, 1320)
    assert image[..., :3].std() > 0.01
    assert math.isclose(image[..., :3].max(), 1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
