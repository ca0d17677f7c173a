"""Multi-head self-attention, the baseline: Vaswani et al. (arXiv 1706.03762) with Keras MultiHeadAttention's layout.

Shape suffixes: B batch, N and M tokens, D channels, H heads, K channels of one head.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from eanet.attention.affine import Affine, apply_affine, check_input
from eanet.attention.dot_product import attend, attention_map
from eanet.attention.dropout import Dropout

Layer = tuple[jax.Array, jax.Array]  # kernel and bias


class SelfAttention(nn.Module):
    """Attend to the other tokens by scaled dot products (Keras MultiHeadAttention's arithmetic).

    `module(x, deterministic=...)` maps [batch, tokens, channels] to the same shape. The kernels of
    query, key and value are [channels, heads, head_dim], so Keras's glorot limit depends on num_heads;
    that is kept. Raises ValueError for another number of axes, or where head_dim is 0 and channels does
    not divide by num_heads.

    Query and key, and value and output, are linear maps with nothing between them but the products with the
    tokens, so each pair may be multiplied together first: then all heads have the tokens themselves as keys and
    values. As in external attention this is done whenever it costs fewer multiplications; parameters and function
    are the same either way.
    """

    num_heads: int = 4
    head_dim: int = 64  # channels of one head; 0 = channels // num_heads
    attention_dropout: float = 0.0  # rate, on the attention map
    projection_dropout: float = 0.0  # rate, on the output
    dtype: Any = jnp.float32  # of activations; parameters and softmax stay float32
    merge_linear: bool | None = None  # multiply neighbouring kernels first; None = if it is cheaper

    PUBLISHED: ClassVar = {"merge_linear": False}  # as the paper counts multiply-adds
    MATCHED: ClassVar = ("head_dim",)  # sizes that `python -m eanet.cost --match` may change

    @nn.compact
    def __call__(self, x_BND: jax.Array, *, deterministic: bool = True) -> jax.Array:
        check_input(x_BND)
        tokens, channels = x_BND.shape[1:]
        if not self.head_dim and channels % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide the {channels} channels")
        head_dim = self.head_dim or channels // self.num_heads
        (query_DHK, query_bias_HK), key, value = (
            Affine((channels, self.num_heads, head_dim), out_axes=2, name=name)() for name in ("query", "key", "value")
        )
        out = Affine((self.num_heads, head_dim, channels), name="out")()
        # Scaling the query costs head_dim / tokens of what scaling the map would.
        query = query_DHK * head_dim**-0.5, query_bias_HK * head_dim**-0.5

        # Per token and head: channels * (channels + tokens) multiplications merged, twice; else head_dim each.
        merge = channels * (channels + tokens) <= head_dim * (2 * channels + tokens)
        attend_with = self._merged if (merge if self.merge_linear is None else self.merge_linear) else self._by_heads
        dropout = None if deterministic or not self.attention_dropout else Dropout(self.attention_dropout)
        out_BND = attend_with(x_BND.astype(self.dtype), query, key, value, out, dropout)
        return Dropout(self.projection_dropout)(out_BND, deterministic=deterministic)

    @nn.nowrap
    def _merged(
        self, x_BND: jax.Array, query: Layer, key: Layer, value: Layer, out: Layer, dropout: Dropout | None
    ) -> jax.Array:
        """Attend with the tokens as keys and values of all heads. R is a token's head, E is D of the other token."""
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
        mixed_BNHE = mixed_BRE.reshape(batch, tokens, self.num_heads, channels)
        out_BND = apply_affine("BNHE,HED->BND", mixed_BNHE, out_HED, out_bias_D)
        # The value's bias is added as often as a row's map sums to: once, but for dropout.
        value_bias_HD = jnp.einsum("HK,HKD->HD", value_bias_HK, out_HKD).astype(self.dtype)
        sums_BNH = sums_BR.reshape(batch, tokens, self.num_heads).astype(self.dtype)
        return out_BND + jnp.einsum("BNH,HD->BND", sums_BNH, value_bias_HD)

    @nn.nowrap
    def _by_heads(
        self, x_BND: jax.Array, query: Layer, key: Layer, value: Layer, out: Layer, dropout: Dropout | None
    ) -> jax.Array:
        """Attend with the keys and values of each head. A group G is a head of an image."""
        batch, tokens, _ = x_BND.shape

        def heads_first(kernel_DHK: jax.Array, bias_HK: jax.Array) -> jax.Array:
            y_BHNK = apply_affine("BND,DHK->BHNK", x_BND, kernel_DHK, bias_HK[:, None, :])
            return y_BHNK.reshape(batch * self.num_heads, tokens, -1)

        query_GNK, key_GMK, value_GMK = (heads_first(*layer) for layer in (query, key, value))
        keep_GNM, scale = None, 1.0
        if dropout:
            keep_BHNM, scale = dropout.draw((batch, self.num_heads, tokens, tokens))
            keep_GNM = keep_BHNM.reshape(-1, tokens, tokens)
        mixed_GNK, _ = attend(query_GNK, key_GMK, value_GMK, keep_GNM, scale)
        if self.is_mutable_collection("intermediates"):
            map_GNM = attention_map(query_GNK, key_GMK)
            self.sow("intermediates", "attention_map", map_GNM.reshape(batch, self.num_heads, tokens, tokens))
        return apply_affine("BHNK,HKD->BND", mixed_GNK.reshape(batch, self.num_heads, tokens, -1), *out)
