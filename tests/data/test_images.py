"""Image files of all kinds, read as arrays of one kind and size."""

import numpy as np
import pytest
from PIL import Image

from eanet.data import images
from eanet.errors import UserError

_GRADIENT = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)


def _read(image, tmp_path, shape=(32, 32, 3), **options):
    path = tmp_path / f"image.{options.pop('kind', 'png')}"
    image.save(path, **options)
    return images.read_image(path, shape)


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
    [
        (b"", "not a readable image"),
        (b"not an image", "not a readable image"),
        (None, "No such file"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 50, ""),
    ],
    ids=["empty", "text", "missing", "broken"],
)
def test_a_file_that_is_no_image_is_named(tmp_path, content, says):
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"bad.png .*{says}"):
        images.read_image(path, (32, 32, 3))
    with pytest.raises(UserError, match=f"bad.png .*{says}"):
        images.look_at(path)


def test_sixteen_bits_keep_their_upper_eight(tmp_path):
    wide = (np.arange(32 * 32, dtype=np.uint16) * 64).reshape(32, 32)
    read = _read(Image.fromarray(wide), tmp_path, (32, 32, 1))[..., 0]
    np.testing.assert_array_equal(read, wide >> 8)


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (Image.fromarray(_GRADIENT), {}, ((32, 32), set())),
        (Image.fromarray(_GRADIENT[:8]), {}, ((8, 32), set())),
        (Image.fromarray(_GRADIENT[..., 0]), {}, ((32, 32), {"grey"})),
        (Image.fromarray(_GRADIENT).quantize(8), {}, ((32, 32), {"palette"})),
        (Image.fromarray(_GRADIENT).convert("RGBA"), {}, ((32, 32), {"transparent"})),
        (Image.fromarray(_GRADIENT[..., 0]).convert("LA"), {}, ((32, 32), {"grey", "transparent"})),
        (Image.fromarray(_GRADIENT[..., 0].astype(np.uint16)), {}, ((32, 32), {"grey"})),
        (Image.fromarray(_GRADIENT[:8]), {"turned": 6}, ((32, 8), set())),
    ],
    ids=["color", "wide", "grey", "palette", "transparent", "grey and transparent", "16 bits", "turned"],
)
def test_what_a_file_says_of_itself(tmp_path, image, options, expected):
    exif = Image.Exif()
    if options:
        exif[0x0112] = options["turned"]
    image.save(tmp_path / "image.png", **({"exif": exif} if options else {}))
    size, traits = images.look_at(tmp_path / "image.png")
    assert (size, set(traits)) == expected
