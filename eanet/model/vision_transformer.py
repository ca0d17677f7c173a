"""The small vision transformer of the Keras example, with its attention as one field.

Shape suffixes: B batch, N tokens, D channels, P values of one patch; images are [batch, height, width, channels].
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from eanet.attention import ATTENTIONS, ExternalAttention, field_names
from eanet.attention.dropout import Dropout
from eanet.attention.removal import removable

GELUS = ("tanh", "erf")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

LAYER_NORM_EPSILON = 1e-5  # the example's; flax's default is 1e-6


def patches(images: jax.Array, patch_size: int) -> jax.Array:
    """Cut square images into patches, row by row, each as (row, column, channel): [B, N, P].

    Raises ValueError if the image is not square or its side does not divide by patch_size.
    """
    batch, height, width, channels = images.shape
    if height != width:
        raise ValueError(f"images are {height}×{width}; only square images are accepted")
    if height % patch_size:
        raise ValueError(f"image side {height} does not divide by patch_size {patch_size}")
    side = height // patch_size
    grid = images.reshape(batch, side, patch_size, side, patch_size, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, side * side, -1)


def _position_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draw from U(-0.05, 0.05), Keras's default for an Embedding."""
    return jax.random.uniform(key, shape, dtype, -0.05, 0.05)


class Block(nn.Module):
    """One pre-norm encoder block: attention and an MLP, each behind a layer norm and a residual."""

    attention: Callable[..., nn.Module] | None  # makes the attention module; None = no attention
    mlp_dim: int  # hidden channels of the MLP
    mlp_dropout: float  # rate, after both layers of the MLP
    gelu: str = "tanh"  # tanh (approximate, Keras 3's) | erf (exact, tf.keras's)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BND: jax.Array, *, deterministic: bool) -> jax.Array:
        def norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(LAYER_NORM_EPSILON, dtype=self.dtype, use_fast_variance=False, name=name)

        if self.attention is not None:
            attend = self.attention(dtype=self.dtype, name="attention")
            attended_BND = attend(norm("attention_norm")(x_BND), deterministic=deterministic)
            x_BND = x_BND + removable(self, "attended", attended_BND)

        hidden = nn.Dense(self.mlp_dim, dtype=self.dtype, kernel_init=nn.initializers.glorot_uniform(), name="mlp_in")
        out = nn.Dense(x_BND.shape[-1], dtype=self.dtype, kernel_init=nn.initializers.glorot_uniform(), name="mlp_out")
        y = Dropout(self.mlp_dropout)(
            nn.gelu(hidden(norm("mlp_norm")(x_BND)), approximate=self.gelu == "tanh"), deterministic=deterministic
        )
        return x_BND + Dropout(self.mlp_dropout)(out(y), deterministic=deterministic)


class VisionTransformer(nn.Module):
    """Classify square images; `module.apply({'params': p}, images, deterministic=True)` gives logits.

    `images` are normalised floats [batch, height, width, channels]; the logits are float32
    [batch, num_classes]. Raises ValueError, before anything is compiled, for an image that is not
    square, does not divide into patches, or has another size than the model was initialised with.
    """

    num_classes: int
    attention: Callable[..., nn.Module] | None = ExternalAttention  # makes one block's attention; None = none
    patch_size: int = 2  # pixels of a patch's side
    dim: int = 64  # D, channels of a token
    depth: int = 8  # blocks
    mlp_dim: int = 64  # hidden channels of a block's MLP
    mlp_dropout: float = 0.2  # rate
    gelu: str = "tanh"  # tanh | erf
    dtype: Any = jnp.float32  # of activations

    @nn.compact
    def __call__(self, images: jax.Array, *, deterministic: bool = True) -> jax.Array:
        x_BNP = patches(images, self.patch_size)
        tokens = x_BNP.shape[1]
        if self.has_variable("params", "position_embedding"):
            known = self.get_variable("params", "position_embedding").shape[0]
            if known != tokens:
                raise ValueError(
                    f"images of {images.shape[1]}×{images.shape[2]} give {tokens} tokens, the model has {known}"
                )

        glorot = nn.initializers.glorot_uniform()
        x_BND = nn.Dense(self.dim, dtype=self.dtype, kernel_init=glorot, name="patch_embedding")(x_BNP)
        position_ND = self.param("position_embedding", _position_init, (tokens, self.dim), jnp.float32)
        x_BND = x_BND + position_ND[None].astype(self.dtype)

        attention = self.attention
        unbound = attention(parent=None) if attention else None
        if hasattr(unbound, "shared_modules"):
            attention = functools.partial(attention, **unbound.shared_modules(self.dim))
        for i in range(self.depth):
            block = Block(attention, self.mlp_dim, self.mlp_dropout, self.gelu, self.dtype, name=f"block_{i}")
            x_BND = block(x_BND, deterministic=deterministic)

        x_BD = jnp.mean(x_BND, axis=1)
        # The classifier is 0.01% of the arithmetic: float32 costs nothing and keeps the logits exact.
        return nn.Dense(self.num_classes, kernel_init=glorot, name="classifier")(x_BD.astype(jnp.float32))


def build_model(config: ml_collections.ConfigDict, num_classes: int) -> VisionTransformer:
    """Build the module that `config.model` describes.

    Raises ValueError for an unknown attention, GELU or dtype; the module itself does for sizes that do not fit.
    """
    for field, accepted in (("attention", tuple(ATTENTIONS)), ("gelu", GELUS), ("dtype", tuple(DTYPES))):
        if config[field] not in accepted:
            raise ValueError(f"{field} is {config[field]!r}; accepted: {', '.join(accepted)}")
    return VisionTransformer(
        num_classes=num_classes,
        attention=make_attention(config),
        dtype=DTYPES[config.dtype],
        **{field: config[field] for field in ("patch_size", "dim", "depth", "mlp_dim", "mlp_dropout", "gelu")},
    )


def make_attention(config: ml_collections.ConfigDict) -> Callable[..., nn.Module] | None:
    """Return what makes the attention module that `config.model` describes; None if it has none."""
    attention = ATTENTIONS[config.attention]
    if attention is None:
        return None
    own = field_names(config.attention).intersection(config) - {"dtype"}  # whose value is text here
    return functools.partial(attention, **{field: config[field] for field in sorted(own)})


def count_parameters(params: Any) -> int:
    """Count the trainable numbers in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
