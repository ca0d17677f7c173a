"""Induced set attention: Lee et al., "Set Transformer" (arXiv 1810.00825), section 3.1 (ISAB).

Shape suffixes: B batch, N tokens, D channels, H heads, K channels of one head, S inducing points.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from eanet.attention.affine import Affine, apply_affine, apply_by_heads, check_input, head_width
from eanet.attention.dot_product import attend_by_heads, attention_map
from eanet.attention.dropout import Dropout
from eanet.attention.removal import removable


class InducedAttention(nn.Module):
    """Attend to S summaries of the tokens, which learned inducing points make by attending to the tokens.

    `module(x, deterministic=...)` maps [batch, tokens, channels] to the same shape. This is the attention of the
    source's MAB(X, MAB(I, X)). The layer norms, residual and feed-forward layers of the outer MAB are those of the
    network's block; the inner one has none. There are S slots as in external attention, but their content is computed
    from the input. The cost grows with tokens * S. It is permutation-equivariant. Raises ValueError if the input does
    not have three axes, or if channels is not divisible by num_heads where head_dim is 0, or by dim_coefficient where
    memory_size is 0.
    """

    num_heads: int = 4
    head_dim: int = 64  # channels of one head; 0 = channels // num_heads
    dim_coefficient: int = 4  # only for the number of inducing points that memory_size=0 leaves open
    memory_size: int = 0  # S, inducing points; 0 = channels // dim_coefficient, the slots of external attention
    attention_dropout: float = 0.0  # rate, on both attention maps
    projection_dropout: float = 0.0  # rate, on the output
    dtype: Any = jnp.float32  # of activations; parameters and softmax stay float32

    MATCHED: ClassVar = ("head_dim", "memory_size")  # sizes that `python -m eanet.cost --match` may change
    MAPS: ClassVar = {"summarize_map": "HSN", "distribute_map": "HNS"}  # axes of an image's: heads, slots, tokens
    MEMORIES: ClassVar = ("inducing_points",)  # learned, by the names of their parameters

    @nn.compact
    def __call__(self, x_BND: jax.Array, *, deterministic: bool = True) -> jax.Array:
        check_input(x_BND)
        channels = x_BND.shape[-1]
        if not self.memory_size and channels % self.dim_coefficient:
            raise ValueError(f"dim_coefficient={self.dim_coefficient} does not divide the {channels} channels")
        slots = self.memory_size or channels // self.dim_coefficient
        points_SD = self.param("inducing_points", nn.initializers.glorot_uniform(), (slots, channels), jnp.float32)
        x_BND = x_BND.astype(self.dtype)
        summaries_BSD = self._attend(points_SD[None].astype(self.dtype), x_BND, deterministic, "summarize")
        out_BND = self._attend(x_BND, summaries_BSD, deterministic, "distribute")
        return Dropout(self.projection_dropout)(out_BND, deterministic=deterministic)

    @nn.nowrap
    def _attend(self, x_BND: jax.Array, other_BMD: jax.Array, deterministic: bool, name: str) -> jax.Array:
        """Let x, or the same x for all images, attend to other tokens by scaled dot products."""
        channels, head_dim = x_BND.shape[-1], head_width(x_BND.shape[-1], self.num_heads, self.head_dim)

        def project(part: str) -> tuple[jax.Array, jax.Array]:
            return Affine((channels, self.num_heads, head_dim), out_axes=2, name=f"{name}_{part}")()

        query_BHNK = apply_by_heads(x_BND, *(parameter * head_dim**-0.5 for parameter in project("query")))
        key_BHMK, value_BHMK = (apply_by_heads(other_BMD, *project(part)) for part in ("key", "value"))
        if name == "distribute":  # a slot without its value is as a map without its column
            value_BHMK = removable(self, "slots", value_BHMK, (1, 2))
        query_BHNK = jnp.broadcast_to(query_BHNK, (other_BMD.shape[0], *query_BHNK.shape[1:]))
        dropout = None if deterministic or not self.attention_dropout else Dropout(self.attention_dropout)
        mixed_BHNK = attend_by_heads(query_BHNK, key_BHMK, value_BHMK, dropout)
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", f"{name}_map", attention_map(query_BHNK, key_BHMK))
        out = Affine((self.num_heads, head_dim, channels), name=f"{name}_out")()
        return apply_affine("BHNK,HKD->BND", mixed_BHNK, *out)
