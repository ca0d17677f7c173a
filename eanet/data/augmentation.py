"""Augmentation on the device: small pure functions of one image, and their random composition.

Operations and their order are the Keras example's; an image is float [height, width, channels].
Coordinates count pixels, the centre of an image is ((width - 1) / 2, (height - 1) / 2), samples are
bilinear, and what lies outside mirrors at the border with the edge pixel repeated (d c b a|a b c d|d c b a;
Keras calls this "reflect", NumPy "symmetric").
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What an image passes through on its way from uint8 to the network."""

    mean: tuple[float, ...]  # per channel, of the training images
    deviation: tuple[float, ...]  # per channel
    flip: bool = False  # left-right, with probability one half
    rotation: float = 0.0  # fraction of a full turn, both ways
    contrast: float = 0.0  # factor from U(1 - x, 1 + x)
    contrast_upward: bool = False  # factor from U(1, 1 + x) instead
    contrast_per_batch: bool = False  # one factor for all images of a batch
    contrast_clip: bool = False  # clip to [0, 255] after it, in training only: Keras's fault, to reproduce it
    zoom: float = 0.0  # height and width each from U(1 - x, 1 + x)

    def without_randomness(self) -> "Preprocessing":
        """Return the same path with every strength at 0."""
        return dataclasses.replace(self, flip=False, rotation=0.0, contrast=0.0, zoom=0.0)


def normalize(images: jax.Array, preprocessing: Preprocessing) -> jax.Array:
    """Subtract the mean and divide by the deviation of each channel; uint8 in, float32 out."""
    shape = (1,) * (images.ndim - 1) + (-1,)
    mean, deviation = (
        jnp.asarray(x, jnp.float32).reshape(shape) for x in (preprocessing.mean, preprocessing.deviation)
    )
    return (images.astype(jnp.float32) - mean) / deviation


def _mirror(index: jax.Array, size: int) -> jax.Array:
    """Fold pixel indices from outside back into 0 … size - 1, repeating the edge pixel."""
    index = jnp.mod(index, 2 * size)
    return jnp.minimum(index, 2 * size - 1 - index)


def _taps(position: jax.Array, size: int) -> list[tuple[jax.Array, jax.Array]]:
    """Return the two neighbouring indices of each position and their linear weights."""
    low = jnp.floor(position)
    weight = position - low
    low = low.astype(jnp.int32)
    return [(_mirror(low, size), 1 - weight), (_mirror(low + 1, size), weight)]


def flip(image: jax.Array) -> jax.Array:
    """Mirror left and right."""
    return image[:, ::-1]


def rotate(image: jax.Array, angle: jax.Array) -> jax.Array:
    """Rotate counter-clockwise by `angle` radians about the centre."""
    height, width, channels = image.shape
    x = jnp.arange(width, dtype=jnp.float32)[None, :] - (width - 1) / 2
    y = jnp.arange(height, dtype=jnp.float32)[:, None] - (height - 1) / 2
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    source_x = cos * x - sin * y + (width - 1) / 2
    source_y = sin * x + cos * y + (height - 1) / 2
    pixels = image.reshape(height * width, channels)
    rotated = jnp.zeros_like(image)
    for row, row_weight in _taps(source_y, height):
        for column, column_weight in _taps(source_x, width):
            values = jnp.take(pixels, row * width + column, axis=0)
            rotated += (row_weight * column_weight)[:, :, None] * values
    return rotated


def adjust_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Stretch the values about each channel's mean. Nothing is clipped: normalised values may be negative."""
    mean = jnp.mean(image, axis=(0, 1), keepdims=True)
    return (image - mean) * factor + mean


def _zoom_matrix(size: int, factor: jax.Array) -> jax.Array:
    """Return the [size, size] matrix that resamples one axis about its centre; bilinear zoom is separable."""
    position = (jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2) * factor + (size - 1) / 2
    return sum(weight[:, None] * jax.nn.one_hot(index, size) for index, weight in _taps(position, size))


def zoom(image: jax.Array, height_factor: jax.Array, width_factor: jax.Array) -> jax.Array:
    """Zoom about the centre; a factor above 1 zooms out, below 1 in."""
    rows = _zoom_matrix(image.shape[0], height_factor)
    columns = _zoom_matrix(image.shape[1], width_factor)
    # The highest precision: TF32 and bfloat16 products would blur pixels on a GPU or TPU.
    return jnp.einsum("hi,ijc,wj->hwc", rows, image, columns, precision=jax.lax.Precision.HIGHEST)


def augment(key: jax.Array, images: jax.Array, preprocessing: Preprocessing) -> jax.Array:
    """Flip, rotate, change contrast and zoom normalised images [batch, height, width, channels].

    Every image has draws of its own; a part whose strength is 0 or False is not even compiled.
    """
    uniform = jax.random.uniform(key, (images.shape[0], 5))
    if preprocessing.contrast_per_batch:
        uniform = uniform.at[:, 2].set(uniform[0, 2])

    def augment_one(u: jax.Array, image: jax.Array) -> jax.Array:
        def symmetric(index: int, strength: float) -> jax.Array:
            return (2 * u[index] - 1) * strength

        if preprocessing.flip:
            image = jnp.where(u[0] < 0.5, flip(image), image)
        if preprocessing.rotation:
            image = rotate(image, symmetric(1, 2 * jnp.pi * preprocessing.rotation))
        if preprocessing.contrast:
            strength = u[2] * preprocessing.contrast
            if not preprocessing.contrast_upward:
                strength = symmetric(2, preprocessing.contrast)
            image = adjust_contrast(image, 1 + strength)
        if preprocessing.contrast_clip:
            image = jnp.clip(image, 0, 255)
        if preprocessing.zoom:
            factors = (1 + symmetric(i, preprocessing.zoom) for i in (3, 4))
            image = zoom(image, *factors)
        return image

    return jax.vmap(augment_one)(uniform, images)


def training_input(key: jax.Array, images: jax.Array, preprocessing: Preprocessing) -> jax.Array:
    """Return what the network sees of uint8 images in training."""
    return augment(key, normalize(images, preprocessing), preprocessing)


def evaluation_input(images: jax.Array, preprocessing: Preprocessing) -> jax.Array:
    """Return what the network sees of uint8 images in evaluation."""
    return normalize(images, preprocessing)
