"""Depthwise convolution of the tokens: ConvFormer's mixer in "MetaFormer Baselines for Vision" (arXiv 2210.13452).

Shape suffixes: B batch, N tokens, D channels, C channels in between, R rows and L columns of the token grid, i and j of
the kernel.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from eanet.attention.affine import Affine, apply_affine, check_input
from eanet.attention.dropout import Dropout

_SIDE = 3  # of the kernel


@jax.custom_vjp
def depthwise(x_BRLC: jax.Array, kernel_ijC: jax.Array) -> jax.Array:
    """Return the 3×3 convolution of each channel by itself, with zeros around the grid, in the dtype of x.

    Written as a sum of nine shifted grids, in float32. XLA's grouped convolution takes a CPU many times as long, most
    of all for the kernel's gradient, and XLA's derivative of the shifts as well, which adds nine padded grids.
    """
    terms = (x * kernel_ijC[None, i : i + 1, j : j + 1] for (i, j), x in _shifted(x_BRLC))
    return sum(terms).astype(x_BRLC.dtype)


def _shifted(x_BRLC: jax.Array) -> Iterator[tuple[tuple[int, int], jax.Array]]:
    """Yield, for each entry of the kernel, the grid of the neighbours that it multiplies."""
    rows, columns = x_BRLC.shape[1:3]
    padded = jnp.pad(x_BRLC.astype(jnp.float32), ((0, 0), (_SIDE // 2,) * 2, (_SIDE // 2,) * 2, (0, 0)))
    for i in range(_SIDE):
        for j in range(_SIDE):
            yield (i, j), padded[:, i : i + rows, j : j + columns]


def _depthwise_gradient(factors: tuple[jax.Array, jax.Array], d_y_BRLC: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_BRLC, kernel_ijC = factors
    d_kernel = [jnp.sum(x * d_y_BRLC.astype(jnp.float32), axis=(0, 1, 2)) for _, x in _shifted(x_BRLC)]
    d_kernel_ijC = jnp.stack(d_kernel).reshape(kernel_ijC.shape).astype(kernel_ijC.dtype)
    return depthwise(d_y_BRLC, kernel_ijC[::-1, ::-1]), d_kernel_ijC


depthwise.defvjp(lambda x, kernel: (depthwise(x, kernel), (x, kernel)), _depthwise_gradient)


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

    xla_convolution: bool = False  # by XLA's convolution instead of a sum: the same to rounding, and slow on a CPU

    PUBLISHED: ClassVar = {"xla_convolution": True}  # so that the multiply-adds of the kernel count
    MATCHED: ClassVar = ("conv_dim",)  # sizes that `python -m eanet.cost --match` may change

    @nn.compact
    def __call__(self, x_BND: jax.Array, *, deterministic: bool = True) -> jax.Array:
        check_input(x_BND)
        batch, tokens, channels = x_BND.shape
        side, conv_dim = math.isqrt(tokens), self.conv_dim or channels
        if side**2 != tokens:
            raise ValueError(f"the input has {tokens} tokens; accepted: a square number, for the grid of a convolution")
        expand = Affine((channels, conv_dim), name="expand")()
        kernel_ij1C, bias_C = Affine((_SIDE, _SIDE, 1, conv_dim), name="depthwise")()
        project = Affine((conv_dim, channels), name="project")()

        y_BNC = apply_affine("BND,DC->BNC", x_BND.astype(self.dtype), *expand)
        grid_BRLC = y_BNC.reshape(batch, side, side, conv_dim)
        if self.xla_convolution:
            y_BRLC = jax.lax.conv_general_dilated(
                grid_BRLC,
                kernel_ij1C.astype(self.dtype),
                window_strides=(1, 1),
                padding="SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=conv_dim,
            )
        else:
            y_BRLC = depthwise(grid_BRLC, kernel_ij1C[:, :, 0])
        y_BNC = y_BRLC.reshape(batch, tokens, conv_dim) + bias_C[None, None].astype(self.dtype)
        out_BND = apply_affine("BNC,CD->BND", y_BNC, *project)
        return Dropout(self.projection_dropout)(out_BND, deterministic=deterministic)
