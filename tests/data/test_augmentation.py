"""The augmentations against loops and SciPy, and their random composition against what its draws imply."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from eanet.data.augmentation import Preprocessing, adjust_contrast, augment, flip, normalize, rotate, zoom

# SciPy calls this border "reflect" and NumPy "symmetric": d c b a | a b c d | d c b a.
BORDER = "reflect"
SHAPES = [(8, 8, 1), (9, 9, 3), (28, 28, 1), (6, 10, 2)]


def picture(shape=(9, 9, 3), seed=0):
    """Normalised values: about half of them are negative."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def sample(image, rows, columns):
    """Bilinear samples of each channel at the given coordinates, by SciPy in float64."""
    channels = [
        scipy.ndimage.map_coordinates(channel, [rows, columns], order=1, mode=BORDER)
        for channel in np.moveaxis(np.asarray(image, np.float64), -1, 0)
    ]
    return np.stack(channels, axis=-1)


def centred(shape):
    height, width, _ = shape
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    return rows - (height - 1) / 2, columns - (width - 1) / 2


def reference_rotate(image, angle):
    y, x = centred(image.shape)
    cos, sin = np.cos(angle), np.sin(angle)
    rows, columns = sin * x + cos * y, cos * x - sin * y
    return sample(image, rows + (image.shape[0] - 1) / 2, columns + (image.shape[1] - 1) / 2)


def reference_zoom(image, height_factor, width_factor):
    y, x = centred(image.shape)
    return sample(image, y * height_factor + (image.shape[0] - 1) / 2, x * width_factor + (image.shape[1] - 1) / 2)


def test_normalize_subtracts_the_mean_and_divides_by_the_deviation():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    out = normalize(jnp.asarray(images), Preprocessing((1.0, 50.0, 100.0), (2.0, 10.0, 50.0)))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, (images - np.array([1.0, 50.0, 100.0])) / [2.0, 10.0, 50.0], rtol=1e-6)
    one = normalize(jnp.asarray(images[..., :1]), Preprocessing((5.0,), (2.0,)))
    np.testing.assert_allclose(one, (images[..., :1] - 5.0) / 2.0, rtol=1e-6)


def test_flip_is_exact_and_its_own_inverse():
    image = picture()
    flipped = np.asarray(flip(image))
    np.testing.assert_array_equal(flipped, np.fliplr(np.asarray(image)))
    assert np.any(flipped != np.asarray(image))
    np.testing.assert_array_equal(flip(flip(image)), image)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_factor_zero_changes_nothing(shape):
    image = picture(shape)
    np.testing.assert_array_equal(jax.jit(rotate)(image, 0.0), image)
    np.testing.assert_array_equal(jax.jit(zoom)(image, 1.0, 1.0), image)
    np.testing.assert_allclose(jax.jit(adjust_contrast)(image, 1.0), image, atol=1e-6)


@pytest.mark.parametrize("side", [2, 5, 8])
@pytest.mark.parametrize("turns", [1, 2, 3, -1])
def test_quarter_turns_equal_rot90(side, turns):
    image = picture((side, side, 3))
    turned = rotate(image, turns * jnp.pi / 2)
    assert np.abs(np.asarray(turned - image)).max() > 0.1
    np.testing.assert_allclose(turned, np.rot90(np.asarray(image), turns), atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("angle", [0.2, -0.2, 0.628, -0.628, 2.0, 3.1])
def test_rotation_equals_scipy(shape, angle):
    image = picture(shape)
    expected = reference_rotate(image, angle)
    assert np.abs(expected - np.asarray(image)).max() > 0.1
    assert np.abs(expected - reference_rotate(image, -angle)).max() > 0.1  # the sense of rotation matters
    np.testing.assert_allclose(rotate(image, angle), expected, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("factors", [(0.8, 1.2), (1.2, 0.8), (0.5, 0.5), (2.0, 3.0), (1.0, 1.1)], ids=str)
def test_zoom_equals_scipy(shape, factors):
    image = picture(shape)
    expected = reference_zoom(image, *factors)
    assert np.abs(expected - np.asarray(image)).max() > 0.1
    if factors[0] != factors[1]:
        assert np.abs(expected - reference_zoom(image, *factors[::-1])).max() > 0.1  # height is not width
    np.testing.assert_allclose(zoom(image, *factors), expected, atol=1e-4)


def test_zooming_out_by_two_gives_the_means_computed_by_hand():
    # Row positions (i - 1.5) * 2 + 1.5 are -1.5, 0.5, 2.5, 4.5: outside, a half lies between mirrored pixels
    # (-1.5 is between the mirrors of 0 and 1, 4.5 between those of 3 and 2).
    image = jnp.array([[0.0, 1.0, 4.0, 9.0]] * 4)[..., None]
    np.testing.assert_allclose(zoom(image, 2.0, 2.0)[..., 0], [[0.5, 0.5, 6.5, 6.5]] * 4, atol=1e-6)
    tall = image.transpose(1, 0, 2)
    np.testing.assert_allclose(zoom(tall, 2.0, 1.0)[..., 0], np.array([[0.5, 0.5, 6.5, 6.5]] * 4).T, atol=1e-6)


def test_zooming_in_by_two_gives_the_quarters_computed_by_hand():
    # Positions 0.75, 1.25, 1.75, 2.25: only the middle of the image is left.
    image = jnp.array([[0.0, 4.0, 8.0, 16.0]] * 4)[..., None]
    np.testing.assert_allclose(zoom(image, 0.5, 0.5)[..., 0], [[3.0, 5.0, 7.0, 10.0]] * 4, atol=1e-6)


def test_outside_mirrors_with_the_edge_pixel_repeated():
    row = np.arange(1.0, 6.0)
    image = jnp.asarray(np.tile(row, (5, 1))[..., None], jnp.float32)
    # Every third pixel of the padded row: whole positions, so what is read is the border rule itself.
    symmetric, repeated = (np.pad(row, 10, mode=mode)[12 + 3 * np.arange(-2, 3)] for mode in ("symmetric", "reflect"))
    assert symmetric.tolist() != repeated.tolist()
    np.testing.assert_allclose(zoom(image, 1.0, 3.0)[0, :, 0], symmetric, atol=1e-6)


@pytest.mark.parametrize("factor", [0.0, 0.9, 1.1, 3.0])
def test_contrast_preserves_the_mean_and_does_not_clip(factor):
    image = picture((9, 9, 3)) + jnp.array([[[-3.0, 0.0, 300.0]]])
    out = adjust_contrast(image, factor)
    mean = np.asarray(image, np.float64).mean((0, 1))
    assert mean.min() < -2 and mean.max() > 255  # each side of what a clip to [0, 255] would leave
    np.testing.assert_allclose(out, mean + factor * (np.asarray(image, np.float64) - mean), atol=2e-4)
    np.testing.assert_allclose(np.asarray(out).mean((0, 1)), mean, atol=2e-4)


SIDE = 32
STRENGTHS = {"flip": True, "rotation": 0.1, "contrast": 0.1, "zoom": 0.2}


def preprocessing(**strengths):
    return Preprocessing((0.0,), (1.0,), **strengths)


@functools.partial(jax.jit, static_argnames="how")
def augmented(key, images, how):
    return augment(key, images, how)


def ramps(count):
    """Images whose two channels are the column and the row, so that a resampling can be read off them."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    return jnp.asarray(np.broadcast_to(np.stack([columns, rows], -1), (count, SIDE, SIDE, 2)))


def slopes(images):
    """How the (column, row) ramps change along (x, y) in the middle: one 2×2 matrix an image."""
    i = SIDE // 2
    middle = np.asarray(images, np.float64)
    return np.stack([middle[:, i, i] - middle[:, i, i - 1], middle[:, i, i] - middle[:, i - 1, i]], axis=-1)


def draws(key, count, strengths=STRENGTHS):
    """Read every image's draws off ramps that went through one operation each."""
    flips = slopes(augmented(key, ramps(count), preprocessing(flip=True)))[:, 0, 0] < 0
    turned = slopes(augmented(key, ramps(count), preprocessing(rotation=strengths["rotation"])))
    stretched = slopes(augmented(key, ramps(count), preprocessing(contrast=strengths["contrast"])))
    zoomed = slopes(augmented(key, ramps(count), preprocessing(zoom=strengths["zoom"])))
    angles = np.arctan2(turned[:, 1, 0], turned[:, 0, 0])
    return flips, angles, stretched[:, 0, 0], zoomed[:, 1, 1], zoomed[:, 0, 0]


def test_draws_fill_their_ranges_evenly_and_without_correlation():
    count = 2000
    flips, *others = draws(jax.random.key(0), count)
    assert 0.45 < flips.mean() < 0.55
    ranges = [(-0.2 * np.pi, 0.2 * np.pi), (0.9, 1.1), (0.8, 1.2), (0.8, 1.2)]
    for values, (low, high) in zip(others, ranges, strict=True):
        share = (values - low) / (high - low)
        assert -1e-4 < share.min() < 0.01 and 0.99 < share.max() < 1 + 1e-4
        assert np.abs(np.histogram(share, 4, (0, 1))[0] / count - 0.25).max() < 0.05
    correlations = np.corrcoef([flips, *others]) - np.eye(5)
    assert np.abs(correlations).max() < 0.1  # height and width too are independent


@pytest.mark.parametrize("which", STRENGTHS)
def test_every_image_gets_randomness_of_its_own(which):
    images = jnp.broadcast_to(picture((8, 8, 3)), (16, 8, 8, 3))
    out = np.asarray(augmented(jax.random.key(0), images, preprocessing(**{which: STRENGTHS[which]})))
    different = len(np.unique(out.reshape(16, -1), axis=0))
    assert different == (2 if which == "flip" else 16)


def test_same_key_gives_the_same_images_and_another_key_others():
    images, how = picture((4, 8, 8, 3)), preprocessing(**STRENGTHS)
    one, same, other = (augmented(jax.random.key(seed), images, how) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.all(np.abs(np.asarray(one - other)).max((1, 2, 3)) > 0.01)


def reference_operations(draw):
    flipped, angle, factor, height_factor, width_factor = draw

    def contrast(image):
        mean = image.mean((0, 1), keepdims=True)
        return (image - mean) * factor + mean

    return {
        "flip": lambda image: image[:, ::-1] if flipped else image,
        "rotation": lambda image: reference_rotate(image, angle),
        "contrast": contrast,
        "zoom": lambda image: reference_zoom(image, height_factor, width_factor),
    }


def pairs(order):
    """The pairs that do not commute, in the order they come in; a flip commutes with contrast and zoom."""
    return {
        pair for pair in itertools.combinations(order, 2) if set(pair) not in ({"flip", "contrast"}, {"flip", "zoom"})
    }


def test_operations_come_in_the_documents_order():
    count, strengths = 8, STRENGTHS | {"contrast": 0.9}
    key = jax.random.key(5)
    # Brighter towards a corner, so that rotation and zoom move the mean that the contrast turns about.
    images = picture((count, SIDE, SIDE, 2)) + (ramps(count) / SIDE) ** 4
    out = np.asarray(augmented(key, images, preprocessing(**strengths)))
    of_images = [reference_operations(draw) for draw in zip(*draws(key, count, strengths), strict=True)]

    def error(order):
        errors = []
        for result, image, operations in zip(out, np.asarray(images, np.float64), of_images, strict=True):
            errors.append(result - functools.reduce(lambda x, name: operations[name](x), order, image))  # noqa: B023
        return np.abs(errors).max()

    documented = ("flip", "rotation", "contrast", "zoom")
    assert error(documented) < 3e-3
    others = [order for order in itertools.permutations(documented) if pairs(order) != pairs(documented)]
    assert len(others) > 15
    for order in others:
        assert error(order) > 0.02, order


@pytest.mark.parametrize("shape", [(3, 8, 8, 1), (3, 28, 28, 1), (3, 32, 32, 3)], ids=str)
def test_strength_zero_is_the_identity_and_any_other_keeps_the_shape(shape):
    images = picture(shape)
    np.testing.assert_array_equal(augmented(jax.random.key(0), images, preprocessing()), images)
    out = augmented(jax.random.key(0), images, preprocessing(**STRENGTHS))
    assert out.shape == shape and out.dtype == jnp.float32
    assert np.all(np.isfinite(out)) and np.any(np.asarray(out) != np.asarray(images))
