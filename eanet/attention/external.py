"""External attention and multi-head self-attention, called in the same way.

External attention: Guo et al., "Beyond Self-attention: External Attention using Two Linear Layers
for Visual Tasks" (arXiv 2105.02358), sections 3.2 (double normalisation) and 3.3 (multi-head).

Shape suffixes: B batch, N and M tokens, D channels, H heads, K channels of one head, S memory slots.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eanet.attention.dropout import Dropout, Levels

# Added to the sum over the slots before dividing, as in the official code and the Keras example.
NORM_EPSILON = 1e-9

NORMALIZATIONS = ("double", "tokens", "slots")

_glorot = nn.initializers.glorot_uniform()


def normalize_map(logits_BNHS: jax.Array, normalization: str) -> jax.Array:
    """Turn the logits between tokens and memory slots into an attention map.

    `double` is a softmax over the tokens of each slot, then an l1 norm over the slots of each token
    (section 3.2); `tokens` is its first half; `slots` is a softmax over the slots, which mixes no tokens.

    Returns the map in float32 whatever the input: the epsilon of the l1 norm underflows in float16.
    """
    logits_BNHS = logits_BNHS.astype(jnp.float32)
    if normalization == "slots":
        return jax.nn.softmax(logits_BNHS, axis=-1)
    if normalization == "tokens":
        return jax.nn.softmax(logits_BNHS, axis=1)
    if normalization == "double":
        return _double_normalization(logits_BNHS)[0]
    raise ValueError(f"normalization is {normalization!r}; accepted: {', '.join(NORMALIZATIONS)}")


@jax.custom_jvp
def _double_normalization(logits_BNHS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Give the doubly normalised map and, [B, N, H, 1], what its second norm divided by.

    Its derivative is written out because the two norms share most of it: with p the map and r the divisor,
    p * (dl - sum_n(p * r * dl)) =: u gives dp = u - p * sum_s(u).
    """
    map_BNHS = jax.nn.softmax(logits_BNHS, axis=1)
    sum_BNH1 = NORM_EPSILON + jnp.sum(map_BNHS, axis=-1, keepdims=True)
    return map_BNHS / sum_BNH1, sum_BNH1


@_double_normalization.defjvp
def _double_normalization_jvp(primals: tuple, tangents: tuple) -> tuple:
    map_BNHS, sum_BNH1 = _double_normalization(*primals)
    (d_logits_BNHS,) = tangents
    mean_B1HS = jnp.sum(map_BNHS * sum_BNH1 * d_logits_BNHS, axis=1, keepdims=True)
    u_BNHS = map_BNHS * (d_logits_BNHS - mean_B1HS)
    d_map = u_BNHS - map_BNHS * jnp.sum(u_BNHS, axis=-1, keepdims=True)
    return (map_BNHS, sum_BNH1), (d_map, jnp.zeros_like(sum_BNH1))


class Affine(nn.Module):
    """Own the kernel and bias of a linear layer without applying them.

    External attention multiplies neighbouring kernels together before it touches the tokens, so it
    needs the parameters themselves; and flax's DenseGeneral would initialise a 3-D kernel as if it were
    flat, which Keras does not. The last `out_axes` axes of the kernel are the output's, and the bias's.
    """

    shape: tuple[int, ...]
    out_axes: int = 1
    use_kernel: bool = True  # False: the kernel comes back as None
    use_bias: bool = True  # False: the bias comes back as zeros and is no parameter

    @nn.compact
    def __call__(self) -> tuple[jax.Array | None, jax.Array]:
        bias_shape = self.shape[-self.out_axes :]
        kernel = self.param("kernel", _glorot, self.shape, jnp.float32) if self.use_kernel else None
        if not self.use_bias:
            return kernel, jnp.zeros(bias_shape, jnp.float32)
        return kernel, self.param("bias", nn.initializers.zeros, bias_shape, jnp.float32)


def _apply_affine(equation: str, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Multiply by `equation` in the dtype of `x` and add the bias over the trailing axes."""
    y = jnp.einsum(equation, x, kernel.astype(x.dtype))
    return y + bias.astype(x.dtype).reshape((1,) * (y.ndim - bias.ndim) + bias.shape)


def _check_input(x: jax.Array) -> None:
    if x.ndim != 3:
        raise ValueError(f"the input has shape {x.shape}; accepted: [batch, tokens, channels]")


def memory_shape(channels: int, num_heads: int, dim_coefficient: int, memory_size: int) -> tuple[int, int]:
    """Give (K, S), the shape of M_k: channels of one head, and slots (channels // dim_coefficient where 0)."""
    if channels % num_heads:
        raise ValueError(f"channels {channels} do not divide by num_heads {num_heads}")
    if not memory_size and channels % dim_coefficient:
        raise ValueError(f"channels {channels} do not divide by dim_coefficient {dim_coefficient}")
    return channels // num_heads, memory_size or channels // dim_coefficient


def make_memories(shape_KS: tuple[int, int], use_bias: bool = True, tie: bool = False) -> tuple[Affine, Affine]:
    """Make M_k [K, S] and M_v [S, K] in the calling module; tied, M_v keeps only its bias."""
    key = Affine(shape_KS, use_bias=use_bias, name="memory_key")
    return key, Affine(shape_KS[::-1], use_kernel=not tie, use_bias=use_bias, name="memory_value")


class ExternalAttention(nn.Module):
    """Attend to two learned memories that are shared by the heads.

    `module(x, deterministic=...)` maps [batch, tokens, channels] to the same shape. The tokens are
    expanded to channels * dim_coefficient and split into num_heads * dim_coefficient effective heads.
    Raises ValueError for another number of axes, or where channels does not divide by num_heads or by
    dim_coefficient.

    The two pairs of neighbouring linear maps (expansion and M_k, M_v and projection) have nothing
    between them, so each may be multiplied together first. That is done whenever it costs fewer
    multiplications; parameters and function are the same either way.
    """

    num_heads: int = 4  # heads before the expansion multiplies them by dim_coefficient
    dim_coefficient: int = 4  # expansion factor of the channels, and of the heads
    memory_size: int = 0  # S, slots of each memory; 0 = channels // dim_coefficient
    normalization: str = "double"  # double | tokens | slots
    memory_bias: bool = True  # biases on M_k and M_v
    tie_memories: bool = False  # M_v = M_k^T
    attention_dropout: float | Levels = 0.0  # rate, on the normalised map
    projection_dropout: float | Levels = 0.0  # rate, on the output
    dtype: Any = jnp.float32  # of activations; parameters and normalisation stay float32
    memories: tuple[Affine, Affine] | None = None  # M_k and M_v of somebody else, to share them
    merge_linear: bool | None = None  # multiply neighbouring kernels first; None = where it is cheaper

    @nn.compact
    def __call__(self, x_BND: jax.Array, *, deterministic: bool = True) -> jax.Array:
        _check_input(x_BND)
        channels, heads = x_BND.shape[-1], self.num_heads * self.dim_coefficient
        head_dim, slots = memory_shape(channels, self.num_heads, self.dim_coefficient, self.memory_size)

        expand_DC, expand_bias_C = Affine((channels, heads * head_dim), name="expand")()
        key, value = self.memories or make_memories((head_dim, slots), self.memory_bias, self.tie_memories)
        key_KS, key_bias_S = key()
        value_SK, value_bias_K = value()
        value_SK = key_KS.T if self.tie_memories else value_SK
        project_CD, project_bias_D = Affine((heads * head_dim, channels), name="project")()
        expand_DHK = expand_DC.reshape(channels, heads, head_dim)
        expand_bias_HK = expand_bias_C.reshape(heads, head_dim)
        project_HKD = project_CD.reshape(heads, head_dim, channels)

        # Per token and head: channels * S multiplications merged, head_dim * (channels + S) in two steps.
        merge = channels * slots <= head_dim * (channels + slots) if self.merge_linear is None else self.merge_linear
        x_BND = x_BND.astype(self.dtype)
        if merge:
            kernel_DHS = jnp.einsum("DHK,KS->DHS", expand_DHK, key_KS)
            bias_HS = expand_bias_HK @ key_KS + key_bias_S[None, :]
            logits_BNHS = _apply_affine("BND,DHS->BNHS", x_BND, kernel_DHS, bias_HS)
        else:
            heads_BNHK = _apply_affine("BND,DHK->BNHK", x_BND, expand_DHK, expand_bias_HK)
            logits_BNHS = _apply_affine("BNHK,KS->BNHS", heads_BNHK, key_KS, key_bias_S)

        map_BNHS = normalize_map(logits_BNHS, self.normalization)
        self.sow("intermediates", "attention_map", map_BNHS)
        map_BNHS = Dropout(self.attention_dropout)(map_BNHS.astype(self.dtype), deterministic=deterministic)

        if merge:
            kernel_HSD = jnp.einsum("SK,HKD->HSD", value_SK, project_HKD)
            bias_D = jnp.einsum("K,HKD->D", value_bias_K, project_HKD) + project_bias_D
            out_BND = _apply_affine("BNHS,HSD->BND", map_BNHS, kernel_HSD, bias_D)
        else:
            heads_BNHK = _apply_affine("BNHS,SK->BNHK", map_BNHS, value_SK, value_bias_K)
            out_BND = _apply_affine("BNHK,HKD->BND", heads_BNHK, project_HKD, project_bias_D)
        return Dropout(self.projection_dropout)(out_BND, deterministic=deterministic)


class SelfAttention(nn.Module):
    """Attend to the other tokens by scaled dot products (Keras MultiHeadAttention's arithmetic).

    `module(x, deterministic=...)` maps [batch, tokens, channels] to the same shape. The kernels of
    query, key and value are [channels, heads, head_dim], so Keras's glorot limit depends on num_heads;
    that is kept. Raises ValueError for another number of axes, or where head_dim is 0 and channels does
    not divide by num_heads.
    """

    num_heads: int = 4
    head_dim: int = 64  # channels of one head; 0 = channels // num_heads
    attention_dropout: float | Levels = 0.0  # rate, on the attention map
    projection_dropout: float | Levels = 0.0  # rate, on the output
    dtype: Any = jnp.float32  # of activations; parameters and softmax stay float32

    @nn.compact
    def __call__(self, x_BND: jax.Array, *, deterministic: bool = True) -> jax.Array:
        _check_input(x_BND)
        channels = x_BND.shape[-1]
        if not self.head_dim and channels % self.num_heads:
            raise ValueError(f"channels {channels} do not divide by num_heads {self.num_heads}")
        head_dim = self.head_dim or channels // self.num_heads
        x_BND = x_BND.astype(self.dtype)

        def heads_of(name: str) -> jax.Array:
            kernel_DHK, bias_HK = Affine((channels, self.num_heads, head_dim), out_axes=2, name=name)()
            return _apply_affine("BND,DHK->BNHK", x_BND, kernel_DHK, bias_HK)

        # Scaling the query costs head_dim / tokens of what scaling the map would.
        query_BNHK = heads_of("query") * head_dim**-0.5
        logits_BHNM = jnp.einsum("BNHK,BMHK->BHNM", query_BNHK, heads_of("key"))
        map_BHNM = jax.nn.softmax(logits_BHNM.astype(jnp.float32), axis=-1)
        self.sow("intermediates", "attention_map", map_BHNM)
        map_BHNM = Dropout(self.attention_dropout)(map_BHNM.astype(self.dtype), deterministic=deterministic)
        out_BNHK = jnp.einsum("BHNM,BMHK->BNHK", map_BHNM, heads_of("value"))
        out_HKD, out_bias_D = Affine((self.num_heads, head_dim, channels), name="out")()
        out_BND = _apply_affine("BNHK,HKD->BND", out_BNHK, out_HKD, out_bias_D)
        return Dropout(self.projection_dropout)(out_BND, deterministic=deterministic)
