"""Each augmentation gives what the Keras layer gives for the same draw, at the border too.

The layer's draw is made certain, by a range of one value or by handing it the transformation it would have drawn.
"""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from eanet.data import augmentation as augment
from helpers.keras_reference import keras_ranks  # noqa: F401

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("keras_ranks")]

IMAGES = np.random.default_rng(4).normal(size=(3, 32, 32, 3)).astype(np.float32)


def ours_on(operation, *arguments: float) -> np.ndarray:
    return np.asarray(jax.vmap(lambda image: operation(image, *map(jnp.float32, arguments)))(IMAGES))


def drawn(layer: keras.layers.Layer) -> np.ndarray:
    """Let the layer transform the images as it does in training, its draw being certain."""
    transformation = layer.get_random_transformation(IMAGES, training=True)
    return np.asarray(layer.transform_images(IMAGES, transformation, training=True))


@pytest.mark.parametrize("degrees", [36.0, -36.0, 10.0])
def test_rotation_equals_keras(degrees):
    # The signs agree: a positive angle turns counter-clockwise on both sides.
    turn = degrees / 360
    layer = keras.layers.RandomRotation((turn, turn))
    ours, theirs = ours_on(augment.rotate, np.deg2rad(degrees)), drawn(layer)
    assert np.abs(ours - IMAGES).max() > 1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert np.abs(ours_on(augment.rotate, -np.deg2rad(degrees)) - theirs).max() > 1


@pytest.mark.parametrize("height", [0.8, 1.0, 1.2])
@pytest.mark.parametrize("width", [0.8, 1.0, 1.2])
def test_zoom_equals_keras(height, width):
    layer = keras.layers.RandomZoom((height - 1, height - 1), (width - 1, width - 1))
    ours = ours_on(augment.zoom, height, width)
    assert (np.abs(ours - IMAGES).max() > 1) == ((height, width) != (1, 1))
    np.testing.assert_allclose(ours, drawn(layer), rtol=0, atol=1e-4)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_contrast_equals_keras_without_its_clip(factor):
    layer = keras.layers.RandomContrast(0.1, value_range=(-1e9, 1e9))
    transformation = {"contrast_factor": np.full((len(IMAGES), 1, 1, 1), factor, np.float32)}
    theirs = np.asarray(layer.transform_images(IMAGES, transformation, training=True))
    ours = ours_on(augment.adjust_contrast, factor)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    # As the Keras example makes it, the layer turns what is negative after normalisation into zero.
    clipped = keras.layers.RandomContrast(0.1).transform_images(IMAGES, transformation, training=True)
    np.testing.assert_allclose(np.maximum(ours, 0), clipped, rtol=0, atol=1e-4)
    assert ours.min() < -1


def test_flip_equals_keras():
    flips = np.array([True, False, True]).reshape(3, 1, 1, 1)
    theirs = keras.layers.RandomFlip("horizontal").transform_images(IMAGES, {"flips": flips}, training=True)
    np.testing.assert_array_equal(np.where(flips, ours_on(augment.flip), IMAGES), theirs)
