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
        batch, tokens, channels = x_BND.shape
        heads = self.num_heads
        if not self.head_dim and channels % heads:
            raise ValueError(f"num_heads={heads} does not divide the {channels} channels")
        head_dim = self.head_dim or channels // heads
        x_BND = x_BND.astype(self.dtype)
        (query_DHK, query_bias_HK), (key_DHK, key_bias_HK), (value_DHK, value_bias_HK) = (
            Affine((channels, heads, head_dim), out_axes=2, name=name)() for name in ("query", "key", "value")
        )
        out_HKD, out_bias_D = Affine((heads, head_dim, channels), name="out")()
        # Scaling the query costs head_dim / tokens of what scaling the map would.
        query_DHK, query_bias_HK = query_DHK * head_dim**-0.5, query_bias_HK * head_dim**-0.5

        def draw(*shape: int) -> tuple[jax.Array | None, float]:
            dropout = Dropout(self.attention_dropout)
            return (None, 1.0) if deterministic or not self.attention_dropout else dropout.draw(shape)

        shown = self.is_mutable_collection("intermediates")  # the map on its own is an extra product
        # Per token and head: channels * (channels + tokens) multiplications merged, twice; else head_dim each.
        merge = channels * (channels + tokens) <= head_dim * (2 * channels + tokens)
        if merge if self.merge_linear is None else self.merge_linear:
            # A row is a token's head. The key's bias adds the same to all logits of a row, and the softmax loses it.
            query_DHE = jnp.einsum("DHK,EHK->DHE", query_DHK, key_DHK)
            query_bias_HE = jnp.einsum("HK,EHK->HE", query_bias_HK, key_DHK)
            query_BRE = apply_affine("BND,DHE->BNHE", x_BND, query_DHE, query_bias_HE)
            query_BRE = query_BRE.reshape(batch, tokens * heads, channels)
            keep_BRM, scale = draw(batch, tokens * heads, tokens)
            mixed_BRE, rows_BR = attend(query_BRE, x_BND, x_BND, keep_BRM, scale)
            mixed_BNHE = mixed_BRE.reshape(batch, tokens, heads, channels)
            out_HED = jnp.einsum("EHK,HKD->HED", value_DHK, out_HKD)
            out_BND = apply_affine("BNHE,HED->BND", mixed_BNHE, out_HED, out_bias_D)
            # The value's bias is added as often as a row's map sums to: once, but for dropout.
            value_bias_HD = jnp.einsum("HK,HKD->HD", value_bias_HK, out_HKD).astype(self.dtype)
            rows_BNH = rows_BR.reshape(batch, tokens, heads).astype(self.dtype)
            out_BND = out_BND + jnp.einsum("BNH,HD->BND", rows_BNH, value_bias_HD)
            if shown:
                map_BNHM = attention_map(query_BRE, x_BND).reshape(batch, tokens, heads, tokens)
                self.sow("intermediates", "attention_map", jnp.swapaxes(map_BNHM, 1, 2))
        else:
            query_BHNK = _apply_heads_first(x_BND, query_DHK, query_bias_HK)
            key_BHMK = _apply_heads_first(x_BND, key_DHK, key_bias_HK)
            value_BHMK = _apply_heads_first(x_BND, value_DHK, value_bias_HK)
            keep_BHNM, scale = draw(batch, heads, tokens, tokens)

            def groups(y: jax.Array | None) -> jax.Array | None:
                return y if y is None else y.reshape(batch * heads, *y.shape[2:])

            query_GNK, key_GMK, value_GMK, keep_GNM = map(groups, (query_BHNK, key_BHMK, value_BHMK, keep_BHNM))
            mixed_GNK, _ = attend(query_GNK, key_GMK, value_GMK, keep_GNM, scale)
            mixed_BHNK = mixed_GNK.reshape(batch, heads, tokens, head_dim)
            out_BND = apply_affine("BHNK,HKD->BND", mixed_BHNK, out_HKD, out_bias_D)
            if shown:
                map_BHNM = attention_map(query_GNK, key_GMK).reshape(batch, heads, tokens, tokens)
                self.sow("intermediates", "attention_map", map_BHNM)
        return Dropout(self.projection_dropout)(out_BND, deterministic=deterministic)


def _apply_heads_first(x_BND: jax.Array, kernel_DHK: jax.Array, bias_HK: jax.Array) -> jax.Array:
    """Return the affine map of each head as [B, H, N, K], in the order of the products between tokens."""
    return apply_affine("BND,DHK->BHNK", x_BND, kernel_DHK, bias_HK[:, None, :])
