"""Depthwise convolution of the tokens: ConvFormer's mixer in "MetaFormer Baselines for Vision" (arXiv 2210.13452).

Shape suffixes: B batch, N tokens, D channels, C channels in between, R rows and L columns of the token grid.
"""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from eanet.attention.affine import Affine, apply_affine, check_input
from eanet.attention.dropout import Dropout

_SIDE = 3  # of the kernel


class Convolution(nn.Module):
    """Mix each token with its eight neighbours: a depthwise 3×3 convolution between two linear layers.

    `module(x, deterministic=...)` maps [batch, tokens, channels] to the same shape. The tokens are a square grid, row
    by row, with zeros around it. The source's mixer has a 7×7 kernel and a nonlinearity before it. This one has
    neither, to test whether mixing neighbours with fixed weights is enough. It is not permutation-equivariant. Raises
    ValueError if the input does not have three axes, or if its tokens do not form a square.
    """

    conv_dim: int = 0  # channels between the linear layers; 0 = channels
    projection_dropout: float = 0.0  # rate, on the output
    dtype: Any = jnp.float32  # of activations; parameters stay float32

    MATCHED: ClassVar = ("conv_dim",)  # sizes that `python -m eanet.cost --match` may change

    @nn.compact
    def __call__(self, x_BND: jax.Array, *, deterministic: bool = True) -> jax.Array:
        check_input(x_BND)
        batch, tokens, channels = x_BND.shape
        side, conv_dim = math.isqrt(tokens), self.conv_dim or channels
        if side**2 != tokens:
            raise ValueError(f"the input has {tokens} tokens; accepted: a square number, for the grid of a convolution")
        expand = Affine((channels, conv_dim), name="expand")()
        kernel_RL1C, bias_C = Affine((_SIDE, _SIDE, 1, conv_dim), name="depthwise")()
        project = Affine((conv_dim, channels), name="project")()

        y_BNC = apply_affine("BND,DC->BNC", x_BND.astype(self.dtype), *expand)
        y_BRLC = jax.lax.conv_general_dilated(
            y_BNC.reshape(batch, side, side, conv_dim),
            kernel_RL1C.astype(self.dtype),
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=conv_dim,
        )
        y_BNC = y_BRLC.reshape(batch, tokens, conv_dim) + bias_C[None, None].astype(self.dtype)
        out_BND = apply_affine("BNC,CD->BND", y_BNC, *project)
        return Dropout(self.projection_dropout)(out_BND, deterministic=deterministic)
