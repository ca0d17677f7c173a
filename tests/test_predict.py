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

_GRADIENT = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)


def _read(image, tmp_path, shape=(32, 32, 3), **options):
    path = tmp_path / f"image.{options.pop('kind', 'png')}"
    image.save(path, **options)
    return predict.read_image(path, shape)


def test_an_image_of_the_size_is_read_as_it_is(tmp_path):
    np.testing.assert_array_equal(_read(Image.fromarray(_GRADIENT), tmp_path), _GRADIENT)
    grey = _GRADIENT[..., 0]
    np.testing.assert_array_equal(_read(Image.fromarray(grey), tmp_path, (32, 32, 1))[..., 0], grey)


def test_grey_becomes_three_channels_and_colors_grey(tmp_path):
    grey = Image.fromarray(_GRADIENT[..., 0])
    np.testing.assert_array_equal(_read(grey, tmp_path), np.repeat(_GRADIENT[..., :1], 3, axis=-1))
    expected = np.asarray(Image.fromarray(_GRADIENT).convert("L"))
    np.testing.assert_array_equal(_read(Image.fromarray(_GRADIENT), tmp_path, (32, 32, 1))[..., 0], expected)


def test_the_middle_of_a_wide_image_is_cut_out(tmp_path):
    """64 × 16 pixels, of which the middle 16 × 16 are white: resized they fill all of the image."""
    wide = np.zeros((16, 64, 3), np.uint8)
    wide[:, 24:40] = 255
    read = _read(Image.fromarray(wide), tmp_path)
    assert read.shape == (32, 32, 3) and read[:, 4:-4].min() > 250


def test_what_is_transparent_becomes_white(tmp_path):
    half = np.zeros((32, 32, 4), np.uint8)
    half[:, 16:, 3] = 255
    for image in (Image.fromarray(half), Image.fromarray(half).convert("LA")):
        read = _read(image, tmp_path)
        assert (read[:, :16] == 255).all() and (read[:, 16:] == 0).all()


def test_a_palette_is_looked_up(tmp_path):
    image = Image.fromarray(_GRADIENT).quantize(64)
    read = _read(image, tmp_path)
    np.testing.assert_array_equal(read, np.asarray(image.convert("RGB")))
    assert len(np.unique(read.reshape(-1, 3), axis=0)) > 30


def test_an_image_is_turned_as_its_camera_says(tmp_path):
    image, exif = Image.fromarray(_GRADIENT), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    np.testing.assert_array_equal(_read(image, tmp_path, exif=exif), np.rot90(_GRADIENT, -1))


def test_webp_and_jpeg_are_read(tmp_path):
    for kind in ("webp", "jpg"):
        read = _read(Image.fromarray(_GRADIENT), tmp_path, kind=kind)
        assert np.abs(read.astype(int) - _GRADIENT).mean() < 20


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "no image"), (b"not an image", "no image"), (None, "No such file"), (b"\x89PNG\r\n\x1a\n" + b"x" * 50, "")],
    ids=["empty", "text", "missing", "broken"],
)
def test_a_file_that_is_no_image_is_named(tmp_path, content, says):
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"bad.png .*{says}"):
        predict.read_image(path, (32, 32, 3))


@pytest.fixture
def files(tmp_path):
    """Three digits of the test split as files of four times their size, and one that is no image."""
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
    assert refused.value.exit_code == 1 and captured.err.count("\n") == 1 and "bad.png is no image" in captured.err
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
