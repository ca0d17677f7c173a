"""Multi-head self-attention, the baseline: Vaswani et al. (arXiv 1706.03762) with Keras MultiHeadAttention's layout.

Shape suffixes: B batch, N and M tokens, D channels, H heads, K channels of one head.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from eanet.attention.affine import Affine, apply_affine, apply_by_heads, check_input, head_width
from eanet.attention.dot_product import attend, attend_by_heads, attention_map
from eanet.attention.dropout import Dropout
from eanet.attention.removal import removable

SOURCES = ("input", "learned")

Layer = tuple[jax.Array, jax.Array]  # kernel and bias


class SelfAttention(nn.Module):
    """Attend to the other tokens by scaled dot products (Keras MultiHeadAttention's arithmetic).

    `module(x, deterministic=...)` maps [batch, tokens, channels] to the same shape. The kernels of query, key and value
    are [channels, heads, head_dim], so Keras's glorot limit depends on num_heads; that is kept. Raises ValueError if
    the input does not have three axes, or not the number of tokens of the learned keys or values, for an unknown
    source, or if head_dim is 0 and channels is not divisible by num_heads.

    Query and key, and value and output, are linear maps with nothing between them but the products with the
    tokens, so each pair may be multiplied together first: then all heads have the tokens themselves as keys and
    values. As in external attention this is done whenever it costs fewer multiplications; parameters and function
    are the same either way.

    Keys or values, or both, may be parameters instead, a row for each token position and head ("Static Key Attention
    in Vision", arXiv 2412.07049, for the keys). Learned ones fix the number of tokens. With both learned, tokens do
    not interact: the output of a token depends on its own query alone, as in external attention normalised over the
    slots. docs/ablations.md lists what still differs from that.

    It is permutation-equivariant, unless only the keys or only the values are learned.
    """

    num_heads: int = 4
    head_dim: int = 64  # channels of one head; 0 = channels // num_heads
    attention_dropout: float = 0.0  # rate, on the attention map
    projection_dropout: float = 0.0  # rate, on the output
    dtype: Any = jnp.float32  # of activations; parameters and softmax stay float32
    merge_linear: bool | None = None  # multiply neighbouring kernels first; None = if it is cheaper
    key_source: str = "input"  # input | learned
    value_source: str = "input"  # input | learned

    PUBLISHED: ClassVar = {"merge_linear": False}  # as the paper counts multiply-adds
    MATCHED: ClassVar = ("head_dim",)  # sizes that `python -m eanet.cost --match` may change
    MAPS: ClassVar = {"attention_map": "HNM"}  # axes of what is stored of an image: heads, tokens, other tokens
    MEMORIES: ClassVar = ("learned_key", "learned_value")  # by the names of their parameters

    @nn.compact
    def __call__(self, x_BND: jax.Array, *, deterministic: bool = True) -> jax.Array:
        check_input(x_BND)
        tokens, channels = x_BND.shape[1:]
        head_dim = head_width(channels, self.num_heads, self.head_dim)

        def project(name: str) -> Layer:
            return Affine((channels, self.num_heads, head_dim), out_axes=2, name=name)()

        for name, source in (("key", self.key_source), ("value", self.value_source)):
            if source not in SOURCES:
                raise ValueError(f"{name}_source={source}; accepted: {', '.join(SOURCES)}")
        query_DHK, query_bias_HK = project("query")
        key = self._learned("key", tokens, head_dim) if self.key_source == "learned" else project("key")
        value = self._learned("value", tokens, head_dim) if self.value_source == "learned" else project("value")
        out = Affine((self.num_heads, head_dim, channels), name="out")()
        # Scaling the query costs head_dim / tokens of what scaling the map would.
        query = query_DHK * head_dim**-0.5, query_bias_HK * head_dim**-0.5

        # Half of the multiplications per token and head: merged on the left, in separate steps on the right.
        merge = channels * (channels + tokens) <= head_dim * (2 * channels + tokens)
        merge = merge if self.merge_linear is None else self.merge_linear
        learned = "learned" in (self.key_source, self.value_source)
        attend_with = self._merged if merge and not learned else self._by_heads
        dropout = None if deterministic or not self.attention_dropout else Dropout(self.attention_dropout)
        out_BND = attend_with(x_BND.astype(self.dtype), query, key, value, out, dropout)
        return Dropout(self.projection_dropout)(out_BND, deterministic=deterministic)

    def _learned(self, name: str, tokens: int, head_dim: int) -> jax.Array:
        """Make keys or values [H, M, K] that are parameters, each head's initialised as a linear layer."""
        stored = self.get_variable("params", f"learned_{name}")
        if stored is not None and stored.shape[1] != tokens:
            raise ValueError(f"{name}_source=learned has {stored.shape[1]} tokens, the input {tokens}")
        init = nn.initializers.glorot_uniform(batch_axis=0)
        return self.param(f"learned_{name}", init, (self.num_heads, tokens, head_dim), jnp.float32)

    @nn.nowrap
    def _merged(
        self, x_BND: jax.Array, query: Layer, key: Layer, value: Layer, out: Layer, dropout: Dropout | None
    ) -> jax.Array:
        """Attend with the tokens as keys and values of all heads. R is (token, head), E is D of the other token."""
        batch, tokens, channels = x_BND.shape
        (query_DHK, query_bias_HK), (value_DHK, value_bias_HK), (out_HKD, out_bias_D) = query, value, out
        key_EHK, _ = key  # whose bias adds the same to all logits of a row, and the softmax loses it
        query_DHE = jnp.einsum("DHK,EHK->DHE", query_DHK, key_EHK)
        query_bias_HE = jnp.einsum("HK,EHK->HE", query_bias_HK, key_EHK)
        query_BRE = apply_affine("BND,DHE->BNHE", x_BND, query_DHE, query_bias_HE).reshape(batch, -1, channels)
        keep_BRM, scale = dropout.draw((batch, tokens * self.num_heads, tokens)) if dropout else (None, 1.0)
        mixed_BRE, sums_BR = attend(query_BRE, x_BND, x_BND, keep_BRM, scale)
        if self.is_mutable_collection("intermediates"):  # the map on its own is an extra product
            map_BNHM = attention_map(query_BRE, x_BND).reshape(batch, tokens, self.num_heads, tokens)
            self.sow("intermediates", "attention_map", jnp.swapaxes(map_BNHM, 1, 2))

        out_HED = jnp.einsum("EHK,HKD->HED", value_DHK, out_HKD)
        mixed_BNHE = removable(self, "heads", mixed_BRE.reshape(batch, tokens, self.num_heads, channels), (2,))
        out_BND = apply_affine("BNHE,HED->BND", mixed_BNHE, out_HED, out_bias_D)
        # The value's bias is added as often as a row's map sums to: once, but for dropout.
        value_bias_HD = jnp.einsum("HK,HKD->HD", value_bias_HK, out_HKD).astype(self.dtype)
        sums_BNH = sums_BR.reshape(batch, tokens, self.num_heads).astype(self.dtype)
        sums_BNH = removable(self, "heads", sums_BNH, (2,))
        return out_BND + jnp.einsum("BNH,HD->BND", sums_BNH, value_bias_HD)

    @nn.nowrap
    def _by_heads(
        self,
        x_BND: jax.Array,
        query: Layer,
        key: Layer | jax.Array,
        value: Layer | jax.Array,
        out: Layer,
        dropout: Dropout | None,
    ) -> jax.Array:
        """Attend with the keys and values of each head. An array [H, M, K] instead of a layer serves all images."""

        def rows(source: Layer | jax.Array) -> jax.Array:
            if isinstance(source, tuple):
                return apply_by_heads(x_BND, *source)
            return jnp.broadcast_to(source.astype(self.dtype), (x_BND.shape[0], *source.shape))

        query_BHNK, key_BHMK, value_BHMK = map(rows, (query, key, value))
        mixed_BHNK = attend_by_heads(query_BHNK, key_BHMK, value_BHMK, dropout)
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "attention_map", attention_map(query_BHNK, key_BHMK))
        return apply_affine("BHNK,HKD->BND", removable(self, "heads", mixed_BHNK, (1,)), *out)
