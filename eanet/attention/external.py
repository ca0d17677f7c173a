"""External attention: Guo et al., "Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks"
(arXiv 2105.02358), sections 3.2 (double normalisation) and 3.3 (multi-head).

One more normalisation is that of the Pattention layer in Wang et al., "TokenFormer" (arXiv 2410.23168).

Shape suffixes: B batch, N tokens, D channels, H heads, K channels of one head, S memory slots.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from eanet.attention.affine import Affine, apply_affine, check_input
from eanet.attention.dropout import Dropout
from eanet.attention.removal import removable

# Added to the sum over the slots before dividing, as in the official code and the Keras example.
NORM_EPSILON = 1e-9

# Added to the mean square of l2_gelu: without it the gradient of a token whose logits are all 0 is not a number.
_SQUARE_EPSILON = 1e-12

NORMALIZATIONS = ("double", "tokens", "slots", "l2_gelu")


def normalize_map(logits_BNHS: jax.Array, normalization: str) -> jax.Array:
    """Turn the logits between tokens and memory slots into an attention map.

    `double` is a softmax over the tokens of each slot, then an l1 norm over the slots of each token
    (section 3.2); `tokens` is its first half; `slots` is a softmax over the slots, which mixes no tokens. `l2_gelu`
    mixes none either: the logits of a token, divided by their root mean square over the slots (the l2 norm times
    1/√S), go through a GELU. Its values may be negative and sum to anything.

    Returns the map in float32 whatever the input: the epsilon of the l1 norm underflows in float16. Raises ValueError
    for another normalization.
    """
    logits_BNHS = logits_BNHS.astype(jnp.float32)
    if normalization == "slots":
        return jax.nn.softmax(logits_BNHS, axis=-1)
    if normalization == "tokens":
        return jax.nn.softmax(logits_BNHS, axis=1)
    if normalization == "l2_gelu":
        mean_square_BNH1 = jnp.mean(jnp.square(logits_BNHS), axis=-1, keepdims=True)
        return jax.nn.gelu(logits_BNHS * jax.lax.rsqrt(mean_square_BNH1 + _SQUARE_EPSILON), approximate=False)
    if normalization == "double":
        return _double_normalization(logits_BNHS)[0]
    raise ValueError(f"normalization={normalization}; accepted: {', '.join(NORMALIZATIONS)}")


@jax.custom_jvp
def _double_normalization(logits_BNHS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the doubly normalised map and, [B, N, H, 1], what its second norm divided by.

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


class ExternalAttention(nn.Module):
    """Attend to two learned memories that are shared by the heads.

    `module(x, deterministic=...)` maps [batch, tokens, channels] to the same shape. The tokens are expanded to channels
    * dim_coefficient and split into num_heads * dim_coefficient effective heads. It is permutation-equivariant:
    permuted tokens give the same output, permuted. Raises ValueError if the input does not have three axes, for an
    unknown normalization, or if channels is not divisible by num_heads, or by dim_coefficient where memory_size is 0.

    The two pairs of neighbouring linear maps (expansion and M_k, M_v and projection) have nothing
    between them, so each may be multiplied together first. That is done whenever it costs fewer
    multiplications; parameters and function are the same either way.
    """

    num_heads: int = 4  # heads before the expansion multiplies them by dim_coefficient
    dim_coefficient: int = 4  # expansion factor of the channels, and of the heads
    memory_size: int = 0  # S, slots of each memory; 0 = channels // dim_coefficient
    normalization: str = "double"  # double | tokens | slots | l2_gelu
    memory_bias: bool = True  # biases on M_k and M_v
    tie_memories: bool = False  # M_v = M_k^T
    share_memories: bool = False  # one pair of memories for all blocks of a model: see shared_modules
    attention_dropout: float = 0.0  # rate, on the normalised map
    projection_dropout: float = 0.0  # rate, on the output
    dtype: Any = jnp.float32  # of activations; parameters and normalisation stay float32
    memories: tuple[Affine, Affine] | None = None  # M_k and M_v of another module, to share them
    merge_linear: bool | None = None  # multiply neighbouring kernels first; None = if it is cheaper

    PUBLISHED: ClassVar = {"merge_linear": False}  # as the paper counts multiply-adds
    MATCHED: ClassVar = ("memory_size",)  # sizes that `python -m eanet.cost --match` may change
    MAPS: ClassVar = {"attention_map": "NHS"}  # axes of what is stored of an image: tokens, heads, slots
    MEMORIES: ClassVar = ("memory_key", "memory_value")  # learned, by the names of their parameters

    @nn.compact
    def __call__(self, x_BND: jax.Array, *, deterministic: bool = True) -> jax.Array:
        check_input(x_BND)
        channels, heads = x_BND.shape[-1], self.num_heads * self.dim_coefficient
        head_dim, slots = self._memory_shape(channels)

        expand_DC, expand_bias_C = Affine((channels, heads * head_dim), name="expand")()
        key, value = self.memories or self._make_memories(channels)
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
            logits_BNHS = apply_affine("BND,DHS->BNHS", x_BND, kernel_DHS, bias_HS)
        else:
            heads_BNHK = apply_affine("BND,DHK->BNHK", x_BND, expand_DHK, expand_bias_HK)
            logits_BNHS = apply_affine("BNHK,KS->BNHS", heads_BNHK, key_KS, key_bias_S)

        map_BNHS = normalize_map(logits_BNHS, self.normalization)
        self.sow("intermediates", "attention_map", map_BNHS)
        if self.normalization == "double" and self.is_mutable_collection("intermediates"):
            # The l1 norm makes flat maps uneven: whether a slot tells tokens apart shows only before it.
            over_tokens_BNHS = normalize_map(logits_BNHS, "tokens")
            self.sow("intermediates", "attention_map_over_tokens", over_tokens_BNHS)
        map_BNHS = removable(self, "slots", map_BNHS, (2, 3))
        map_BNHS = Dropout(self.attention_dropout)(map_BNHS.astype(self.dtype), deterministic=deterministic)

        if merge:
            kernel_HSD = jnp.einsum("SK,HKD->HSD", value_SK, project_HKD)
            bias_D = jnp.einsum("K,HKD->D", value_bias_K, project_HKD) + project_bias_D
            out_BND = apply_affine("BNHS,HSD->BND", map_BNHS, kernel_HSD, bias_D)
        else:
            heads_BNHK = apply_affine("BNHS,SK->BNHK", map_BNHS, value_SK, value_bias_K)
            out_BND = apply_affine("BNHK,HKD->BND", heads_BNHK, project_HKD, project_bias_D)
        return Dropout(self.projection_dropout)(out_BND, deterministic=deterministic)

    @nn.nowrap
    def shared_modules(self, channels: int) -> dict[str, Any]:
        """Return the fields whose modules all blocks have in common: the memories, with share_memories.

        A model that calls this in its own __call__ owns the modules.
        """
        return {"memories": self._make_memories(channels)} if self.share_memories else {}

    @nn.nowrap
    def _memory_shape(self, channels: int) -> tuple[int, int]:
        """Return (K, S), the shape of M_k: channels of one head, and slots."""
        if channels % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide the {channels} channels")
        if not self.memory_size and channels % self.dim_coefficient:
            raise ValueError(f"dim_coefficient={self.dim_coefficient} does not divide the {channels} channels")
        return channels // self.num_heads, self.memory_size or channels // self.dim_coefficient

    @nn.nowrap
    def _make_memories(self, channels: int) -> tuple[Affine, Affine]:
        """Make M_k [K, S] and M_v [S, K] in the calling module; tied, M_v keeps only its bias."""
        shape_KS = self._memory_shape(channels)
        key = Affine(shape_KS, use_bias=self.memory_bias, name="memory_key")
        use_kernel = not self.tie_memories
        return key, Affine(shape_KS[::-1], use_kernel=use_kernel, use_bias=self.memory_bias, name="memory_value")
