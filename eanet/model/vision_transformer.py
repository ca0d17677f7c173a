"""The small vision transformer of the Keras example, with its attention as one field.

Shape suffixes: B batch, N tokens, D channels, P values of one patch; images are [batch, height, width, channels].
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from eanet.attention.dropout import Dropout, Levels
from eanet.attention.external import ExternalAttention, SelfAttention, make_memories, memory_shape

ATTENTIONS = ("external", "self", "none")
POOLS = ("mean", "cls")
GELUS = ("tanh", "erf")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

LAYER_NORM_EPSILON = 1e-5  # the example's; flax's default is 1e-6


def patches(images: jax.Array, patch_size: int) -> jax.Array:
    """Cut square images into patches, row by row, each as (row, column, channel): [B, N, P].

    Raises ValueError where the image is not square or its side does not divide by patch_size.
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
    mlp_dropout: float | Levels  # rate, after both layers of the MLP
    gelu: str = "tanh"  # tanh (approximate, Keras 3's) | erf (exact, tf.keras's)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BND: jax.Array, *, deterministic: bool) -> jax.Array:
        def norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(LAYER_NORM_EPSILON, dtype=self.dtype, use_fast_variance=False, name=name)

        if self.attention is not None:
            attend = self.attention(dtype=self.dtype, name="attention")
            x_BND = x_BND + attend(norm("attention_norm")(x_BND), deterministic=deterministic)

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
    shared_memories: Callable[[], tuple[nn.Module, nn.Module]] | None = None  # makes M_k and M_v of all blocks
    patch_size: int = 2  # pixels of a patch's side
    dim: int = 64  # D, channels of a token
    depth: int = 8  # blocks
    mlp_dim: int = 64  # hidden channels of a block's MLP
    mlp_dropout: float | Levels = 0.2  # rate
    gelu: str = "tanh"  # tanh | erf
    final_norm: bool = False  # layer norm before pooling
    pool: str = "mean"  # mean over the tokens | cls token
    dtype: Any = jnp.float32  # of activations

    @nn.compact
    def __call__(self, images: jax.Array, *, deterministic: bool = True) -> jax.Array:
        x_BNP = patches(images, self.patch_size)
        batch, tokens, _ = x_BNP.shape
        tokens += self.pool == "cls"
        if self.has_variable("params", "position_embedding"):
            known = self.get_variable("params", "position_embedding").shape[0]
            if known != tokens:
                raise ValueError(
                    f"images of {images.shape[1]}×{images.shape[2]} give {tokens} tokens, the model has {known}"
                )

        glorot = nn.initializers.glorot_uniform()
        x_BND = nn.Dense(self.dim, dtype=self.dtype, kernel_init=glorot, name="patch_embedding")(x_BNP)
        if self.pool == "cls":
            cls_D = self.param("cls_token", nn.initializers.zeros, (self.dim,), jnp.float32)
            cls_B1D = jnp.broadcast_to(cls_D[None, None, :].astype(self.dtype), (batch, 1, self.dim))
            x_BND = jnp.concatenate([cls_B1D, x_BND], axis=1)
        position_ND = self.param("position_embedding", _position_init, (tokens, self.dim), jnp.float32)
        x_BND = x_BND + position_ND[None].astype(self.dtype)

        attention = self.attention
        if self.shared_memories is not None:
            attention = functools.partial(attention, memories=self.shared_memories())
        for i in range(self.depth):
            block = Block(attention, self.mlp_dim, self.mlp_dropout, self.gelu, self.dtype, name=f"block_{i}")
            x_BND = block(x_BND, deterministic=deterministic)

        if self.final_norm:
            x_BND = nn.LayerNorm(LAYER_NORM_EPSILON, dtype=self.dtype, use_fast_variance=False, name="final_norm")(
                x_BND
            )
        x_BD = x_BND[:, 0] if self.pool == "cls" else jnp.mean(x_BND, axis=1)
        # The classifier is 0.01% of the arithmetic: float32 costs nothing and keeps the logits exact.
        return nn.Dense(self.num_classes, kernel_init=glorot, name="classifier")(x_BD.astype(jnp.float32))


def build_model(config: ml_collections.ConfigDict, num_classes: int) -> VisionTransformer:
    """Build the module that `config.model` describes.

    Raises ValueError for an unknown attention, normalisation, pool or dtype, and for sizes that do not divide.
    """
    for field, accepted in (("attention", ATTENTIONS), ("pool", POOLS), ("gelu", GELUS), ("dtype", tuple(DTYPES))):
        if config[field] not in accepted:
            raise ValueError(f"{field} is {config[field]!r}; accepted: {', '.join(accepted)}")
    dropouts = {"attention_dropout": config.attention_dropout, "projection_dropout": config.projection_dropout}
    shared_memories = None
    if config.attention == "none":
        attention = None
    elif config.attention == "self":
        attention = functools.partial(SelfAttention, num_heads=config.num_heads, head_dim=config.head_dim, **dropouts)
    else:
        attention = functools.partial(
            ExternalAttention,
            **{field: config[field] for field in ("num_heads", "dim_coefficient", "memory_size")},
            **{field: config[field] for field in ("normalization", "memory_bias", "tie_memories")},
            **dropouts,
        )
        shape_KS = memory_shape(config.dim, config.num_heads, config.dim_coefficient, config.memory_size)
        if config.share_memories:
            shared_memories = functools.partial(make_memories, shape_KS, config.memory_bias, config.tie_memories)
    return VisionTransformer(
        num_classes=num_classes,
        attention=attention,
        shared_memories=shared_memories,
        dtype=DTYPES[config.dtype],
        **{field: config[field] for field in ("patch_size", "dim", "depth", "mlp_dim", "mlp_dropout")},
        **{field: config[field] for field in ("gelu", "final_norm", "pool")},
    )


def with_dropout(model: VisionTransformer, rates: Mapping[str, float | Levels]) -> VisionTransformer:
    """Give a model with other rates of dropout: attention_dropout, projection_dropout, mlp_dropout."""
    of_attention = {name: rate for name, rate in rates.items() if name != "mlp_dropout"}
    return model.clone(
        attention=functools.partial(model.attention, **of_attention) if of_attention else model.attention,
        mlp_dropout=rates.get("mlp_dropout", model.mlp_dropout),
    )


def count_parameters(params: Any) -> int:
    """Count the trainable numbers in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
