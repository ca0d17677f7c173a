"""The Keras example's two networks, from its definitions: what this project is timed and tested against.

It has the layers that the published script makes, class for class and attribute for attribute, because a weights
file names a layer by its class and its place among its kind. Sizes are arguments, so that tests can be small.
"""

import keras
import numpy as np

from benchmarks.sizes import CHANNELS, Sizes


class PatchExtract(keras.layers.Layer):
    """Cut images into flat patches."""

    def __init__(self, patch: int, **kwargs):
        super().__init__(**kwargs)
        self.patch = patch

    def call(self, images):
        grid = keras.ops.image.extract_patches(images, self.patch)
        return keras.ops.reshape(grid, (keras.ops.shape(images)[0], -1, self.patch**2 * images.shape[-1]))

    def get_config(self):
        return {**super().get_config(), "patch": self.patch}


class PatchEmbedding(keras.layers.Layer):
    """Project patches and add a learned vector for each position."""

    def __init__(self, tokens: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.tokens, self.width = tokens, width
        self.proj = keras.layers.Dense(width)
        self.pos_embed = keras.layers.Embedding(tokens, width)

    def call(self, patches):
        return self.proj(patches) + self.pos_embed(keras.ops.arange(self.tokens))

    def get_config(self):
        return {**super().get_config(), "tokens": self.tokens, "width": self.width}


def external_attention(x, sizes: Sizes):
    """Apply the example's external attention: [batch, tokens, width] to the same shape."""
    expanded = sizes.width * sizes.coefficient
    heads = sizes.heads * sizes.coefficient
    head_width = expanded // heads
    x = keras.layers.Dense(expanded)(x)
    x = keras.ops.transpose(keras.ops.reshape(x, (-1, sizes.tokens, heads, head_width)), (0, 2, 1, 3))
    scores = keras.layers.Dense(sizes.width // sizes.coefficient)(x)
    scores = keras.layers.Softmax(axis=2)(scores)
    scores = keras.layers.Lambda(lambda a: a / (1e-9 + keras.ops.sum(a, axis=-1, keepdims=True)))(scores)
    scores = keras.layers.Dropout(sizes.dropout)(scores)
    x = keras.layers.Dense(head_width)(scores)
    x = keras.ops.reshape(keras.ops.transpose(x, (0, 2, 1, 3)), (-1, sizes.tokens, expanded))
    return keras.layers.Dropout(sizes.dropout)(keras.layers.Dense(sizes.width)(x))


def encoder_block(x, sizes: Sizes):
    """Apply one pre-norm block."""
    y = keras.layers.LayerNormalization(epsilon=1e-5)(x)
    if sizes.attention == "external":
        y = external_attention(y, sizes)
    else:
        y = keras.layers.MultiHeadAttention(sizes.heads, key_dim=sizes.width, dropout=sizes.dropout)(y, y)
    x = keras.layers.add([y, x])
    y = keras.layers.LayerNormalization(epsilon=1e-5)(x)
    y = keras.layers.Dropout(sizes.dropout)(keras.layers.Dense(sizes.hidden, activation=keras.ops.gelu)(y))
    y = keras.layers.Dropout(sizes.dropout)(keras.layers.Dense(sizes.width)(y))
    return keras.layers.add([y, x])


def build(
    sizes: Sizes, *, activation: str | None = "softmax", adapt_to: np.ndarray | None = None, augmented: bool = False
) -> keras.Model:
    """Build the network, from raw images to probabilities (logits where activation is None).

    The normalisation learns its statistics from adapt_to, and does nothing without. The rest of the augmentation
    is left out unless asked for: it is random, so its layers are compared one by one.
    """
    normalization = keras.layers.Normalization(**({} if adapt_to is not None else {"mean": 0.0, "variance": 1.0}))
    if adapt_to is not None:
        normalization.adapt(adapt_to)
    inputs = keras.Input((sizes.side, sizes.side, CHANNELS))
    x = keras.Sequential([normalization, *(augmentation() if augmented else ())], name="data_augmentation")(inputs)
    x = PatchEmbedding(sizes.tokens, sizes.width)(PatchExtract(sizes.patch)(x))
    for _ in range(sizes.depth):
        x = encoder_block(x, sizes)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(sizes.classes, activation=activation)(x))


def augmentation() -> list[keras.layers.Layer]:
    """Make the example's random layers, in order."""
    return [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomRotation(0.1),
        keras.layers.RandomContrast(0.1),
        keras.layers.RandomZoom(0.2, 0.2),
    ]
