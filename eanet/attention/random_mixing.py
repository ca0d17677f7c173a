"""Random mixing: RandFormer's mixer in "MetaFormer Baselines for Vision" (arXiv 2210.13452), with values and heads.

Shape suffixes: B batch, N and M tokens, D channels, H heads, K channels of one head.
"""

import zlib
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from eanet.attention.affine import Affine, apply_affine, apply_by_heads, check_input, head_width
from eanet.attention.dropout import Dropout
from eanet.attention.removal import removable


class RandomMixing(nn.Module):
    """Self-attention whose maps are drawn once and never learned: the softmax of uniform random numbers.

    `module(x, deterministic=...)` maps [batch, tokens, channels] to the same shape. Each head of each block has a map
    of its own, as the source's blocks have. The maps are not parameters: they are a function of mixing_seed and of the
    module's path in the network, so all runs with the same mixing_seed share them. The rows are nearly flat: within
    one, no weight is more than e times another. It is not permutation-equivariant. Raises ValueError if the input does
    not have three axes, or if head_dim is 0 and channels is not divisible by num_heads.
    """

    num_heads: int = 4
    head_dim: int = 64  # channels of one head; 0 = channels // num_heads
    mixing_seed: int = 0  # of the maps
    attention_dropout: float = 0.0  # rate, on the map
    projection_dropout: float = 0.0  # rate, on the output
    dtype: Any = jnp.float32  # of activations; parameters stay float32

    MATCHED: ClassVar = ("head_dim",)  # sizes that `python -m eanet.cost --match` may change
    MAPS: ClassVar = {"attention_map": "HNM"}  # axes of what is stored of an image: heads, tokens, other tokens

    @nn.compact
    def __call__(self, x_BND: jax.Array, *, deterministic: bool = True) -> jax.Array:
        check_input(x_BND)
        tokens, channels = x_BND.shape[1:]
        head_dim = head_width(channels, self.num_heads, self.head_dim)
        value = Affine((channels, self.num_heads, head_dim), out_axes=2, name="value")()
        out = Affine((self.num_heads, head_dim, channels), name="out")()
        value_BHMK = apply_by_heads(x_BND.astype(self.dtype), *value)
        place = zlib.crc32("/".join(self.path).encode())
        map_HNM = jnp.asarray(random_maps((self.mixing_seed, place), self.num_heads, tokens), self.dtype)
        if deterministic or not self.attention_dropout:
            mixed_BHNK = jnp.einsum("HNM,BHMK->BHNK", map_HNM, value_BHMK)
        else:
            keep_BHNM, scale = Dropout(self.attention_dropout).draw((x_BND.shape[0], *map_HNM.shape))
            map_BHNM = jnp.where(keep_BHNM, map_HNM[None], jnp.zeros((), self.dtype)) * jnp.asarray(scale, self.dtype)
            mixed_BHNK = jnp.einsum("BHNM,BHMK->BHNK", map_BHNM, value_BHMK)
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "attention_map", jnp.broadcast_to(map_HNM, (len(x_BND), *map_HNM.shape)))
        out_BND = apply_affine("BHNK,HKD->BND", removable(self, "heads", mixed_BHNK, (1,)), *out)
        return Dropout(self.projection_dropout)(out_BND, deterministic=deterministic)


def random_maps(seed: tuple[int, ...], num_heads: int, tokens: int) -> np.ndarray:
    """Return [H, N, N] maps whose rows sum to one: softmax of draws from U(0, 1), as in the source's code.

    They are made by NumPy while a program is traced, and are constants in it.
    """
    exp_HNM = np.exp(np.random.default_rng(seed).random((num_heads, tokens, tokens), np.float32))
    return exp_HNM / exp_HNM.sum(axis=-1, keepdims=True)
