"""Multi-head self-attention, the baseline: Vaswani et al. (arXiv 1706.03762) with Keras MultiHeadAttention's layout.

Shape suffixes: B batch, N and M tokens, D channels, H heads, K channels of one head.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from eanet.attention.affine import Affine, apply_affine, check_input
from eanet.attention.dropout import Dropout


class SelfAttention(nn.Module):
    """Attend to the other tokens by scaled dot products (Keras MultiHeadAttention's arithmetic).

    `module(x, deterministic=...)` maps [batch, tokens, channels] to the same shape. The kernels of
    query, key and value are [channels, heads, head_dim], so Keras's glorot limit depends on num_heads;
    that is kept. Raises ValueError for another number of axes, or where head_dim is 0 and channels does
    not divide by num_heads.
    """

    num_heads: int = 4
    head_dim: int = 64  # channels of one head; 0 = channels // num_heads
    attention_dropout: float = 0.0  # rate, on the attention map
    projection_dropout: float = 0.0  # rate, on the output
    dtype: Any = jnp.float32  # of activations; parameters and softmax stay float32

    MATCHED: ClassVar = ("head_dim",)  # sizes that `python -m eanet.cost --match` may change

    @nn.compact
    def __call__(self, x_BND: jax.Array, *, deterministic: bool = True) -> jax.Array:
        check_input(x_BND)
        channels = x_BND.shape[-1]
        if not self.head_dim and channels % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide the {channels} channels")
        head_dim = self.head_dim or channels // self.num_heads
        x_BND = x_BND.astype(self.dtype)

        def heads_of(name: str) -> jax.Array:
            kernel_DHK, bias_HK = Affine((channels, self.num_heads, head_dim), out_axes=2, name=name)()
            return apply_affine("BND,DHK->BNHK", x_BND, kernel_DHK, bias_HK)

        # Scaling the query costs head_dim / tokens of what scaling the map would.
        query_BNHK = heads_of("query") * head_dim**-0.5
        logits_BHNM = jnp.einsum("BNHK,BMHK->BHNM", query_BNHK, heads_of("key"))
        map_BHNM = jax.nn.softmax(logits_BHNM.astype(jnp.float32), axis=-1)
        self.sow("intermediates", "attention_map", map_BHNM)
        map_BHNM = Dropout(self.attention_dropout)(map_BHNM.astype(self.dtype), deterministic=deterministic)
        out_BNHK = jnp.einsum("BHNM,BMHK->BNHK", map_BHNM, heads_of("value"))
        out_HKD, out_bias_D = Affine((self.num_heads, head_dim, channels), name="out")()
        out_BND = apply_affine("BNHK,HKD->BND", out_BNHK, out_HKD, out_bias_D)
        return Dropout(self.projection_dropout)(out_BND, deterministic=deterministic)
