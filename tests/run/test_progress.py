"""What a run shows while it runs, and the picture it leaves."""

import io
import math
import types

import matplotlib.image
import pytest
import rich.console

from eanet.run import curves, progress
from eanet.training.members import Member


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


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands; clock.now is what it shows."""
    clock = types.SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_off_a_terminal_a_line_comes_every_minute_and_says_what_is_left(capsys, clock):
    """Ten seconds a step, of 10 an epoch and 20 in all."""
    part = {name: value for name, value in _row(1).items() if not name.startswith("val")}
    with progress.RunProgress(epochs=2, steps_per_epoch=10, step=0) as bar:
        bar.compiled(12.4)
        lines = {}
        for step in range(1, 21):
            clock.now += 10
            bar.update(step, _row(step // 10) if step % 10 == 0 else part, "mean of 3")
            lines[step] = capsys.readouterr().out.splitlines()
    assert lines[1] == ["Compiled in 12 s"]
    assert lines[2] == ["About 0:01:40 an epoch, 0:03:00 to the end"]  # from one step after the first
    assert [step for step in lines if len(lines[step]) and "epoch 1/2" in lines[step][0]] == [8, 10]
    assert lines[8] == ["epoch 1/2  step 8  mean of 3: loss 4.0000  accuracy 10.00%  100 images/s  0:02:00 left"]
    (last,) = lines[10]
    assert last.endswith("accuracy 10.00%  val loss 4.0000  val accuracy 10.00%  100 images/s")
    assert [step for step in lines if len(lines[step]) and "epoch 2/2" in lines[step][0]] == [16, 20]


def test_of_a_run_that_ends_soon_no_estimate_is_given(capsys, clock):
    with progress.RunProgress(epochs=1, steps_per_epoch=12, step=2) as bar:
        for step in range(3, 12):
            clock.now += 5
            bar.update(step, {name: value for name, value in _row(1).items() if not name.startswith("val")})
    assert not capsys.readouterr().out


def _bar(width, step, row, whose):
    """Return the line that a bar shows on a terminal of so many columns."""
    with progress.RunProgress(epochs=50, steps_per_epoch=313, step=0) as bar:
        bar._bar.live.console = rich.console.Console(file=io.StringIO(), width=width)
        bar.update(step, row, whose)
        with bar._bar.console.capture() as capture:
            bar._bar.console.print(bar._bar.get_renderable())
    return capture.get().splitlines()[-1]


@pytest.mark.parametrize(
    ("width", "whose", "shown", "left_out"),
    [
        (120, "", ["epoch 26/50 ", "loss 0.154 acc 99.9% val 98.9% 12346 img/s 7830/15650"], []),
        (80, "", ["epoch 26/50 ", "loss 0.154 acc 99.9% val 98.9% 12346 img/s"], ["15650"]),
        (80, "mean of 16", ["epoch 26/50 ", "loss 0.154 acc 99.9% val 98.9% (mean of 16)"], ["img/s"]),
        (80, "best of 4, learning_rate=0.001", ["val 98.9% (best of 4, learning_rate=0.001)"], ["acc", "img/s"]),
        (60, "", ["epoch 26/50 ", "loss 0.154 acc 99.9% val 98.9%"], ["img/s"]),
        (60, "mean of 16", ["epoch 26/50 ", "val 98.9% (mean of 16)"], ["img/s"]),
    ],
)
def test_what_is_important_fits_a_narrow_terminal(width, whose, shown, left_out):
    row = {"train/loss": 0.154, "train/accuracy": 0.999, "val/loss": 1.0, "val/accuracy": 0.989}
    line = _bar(width, 7830, row | {"train/images_per_second": 12345.6}, whose)
    assert len(line.rstrip()) <= width and "…" not in line
    assert all(part in line for part in [*shown, "-:--:--"]) and not any(part in line for part in left_out), line


def test_the_line_says_whose_numbers_it_has(capsys):
    with progress.RunProgress(epochs=2, steps_per_epoch=10, step=0) as bar:
        bar.update(10, _row(1), "best of 2, learning_rate=0.1")
    assert "  best of 2, learning_rate=0.1: loss 4.0000  accuracy 10.00%" in capsys.readouterr().out


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
