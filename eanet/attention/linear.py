"""Linear attention: Katharopoulos et al., "Transformers are RNNs" (arXiv 2006.16236), section 3.2.

Shape suffixes: B batch, N tokens, D channels, H heads, K channels of a key, V channels of a value (as many).
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from eanet.attention.affine import Affine, apply_affine, apply_by_heads, check_input, head_width
from eanet.attention.dropout import Dropout
from eanet.attention.removal import removable


class LinearAttention(nn.Module):
    """Attend through a positive feature map of queries and keys instead of the exponential of their product.

    `module(x, deterministic=...)` maps [batch, tokens, channels] to the same shape: φ(Q) (φ(K)ᵀ V) / (φ(Q) Σ φ(K)) with
    φ(x) = elu(x) + 1. The sums over the tokens come first, so the cost is linear in their number, and there is no
    attention map to which dropout could be applied (nor is there in the source). It is permutation-equivariant. Raises
    ValueError if the input does not have three axes, or if head_dim is 0 and channels is not divisible by num_heads.
    """

    num_heads: int = 4
    head_dim: int = 64  # channels of one head; 0 = channels // num_heads
    projection_dropout: float = 0.0  # rate, on the output
    dtype: Any = jnp.float32  # of activations; parameters, sums over the tokens and the division are float32

    MATCHED: ClassVar = ("head_dim",)  # sizes that `python -m eanet.cost --match` may change

    @nn.compact
    def __call__(self, x_BND: jax.Array, *, deterministic: bool = True) -> jax.Array:
        check_input(x_BND)
        channels = x_BND.shape[-1]
        shape = (channels, self.num_heads, head_width(channels, self.num_heads, self.head_dim))
        query_BHNK, key_BHNK, value_BHNV = (
            apply_by_heads(x_BND.astype(self.dtype), *Affine(shape, out_axes=2, name=name)())
            for name in ("query", "key", "value")
        )
        query_BHNK, key_BHNK = _feature_map(query_BHNK), _feature_map(key_BHNK)
        out = Affine((*shape[1:], channels), name="out")()

        sums_BHKV = jnp.einsum("BHNK,BHNV->BHKV", key_BHNK, value_BHNV, preferred_element_type=jnp.float32)
        mixed_BHNV = jnp.einsum(
            "BHNK,BHKV->BHNV", query_BHNK, sums_BHKV.astype(self.dtype), preferred_element_type=jnp.float32
        )
        sums_BHK = jnp.sum(key_BHNK, axis=2, dtype=jnp.float32)
        weight_BHN1 = jnp.einsum("BHNK,BHK->BHN", query_BHNK.astype(jnp.float32), sums_BHK)[..., None]
        # The weights are positive except for underflow, which the features of normalised tokens do not approach.
        mixed_BHNV = mixed_BHNV / jnp.maximum(weight_BHN1, jnp.finfo(jnp.float32).tiny)
        mixed_BHNV = removable(self, "heads", mixed_BHNV.astype(self.dtype), (1,))
        out_BND = apply_affine("BHNV,HVD->BND", mixed_BHNV, *out)
        return Dropout(self.projection_dropout)(out_BND, deterministic=deterministic)


def _feature_map(x: jax.Array) -> jax.Array:
    """Return elu(x) + 1, which is exp(x) below 0: positive where 1 + (exp(x) - 1) has rounded to 0."""
    return jnp.where(x > 0, x + 1, jnp.exp(jnp.minimum(x, 0)))
