"""The gradient of a linear layer, which is not JAX's own rule, against that."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.attention.affine import apply_affine

_SIZES = {"B": 2, "N": 3, "D": 4, "H": 5, "K": 6, "S": 7, "E": 8}


@pytest.mark.parametrize(
    "equation",
    ["BND,DHK->BNHK", "BND,DHS->BNHS", "BNHK,KS->BNHS", "BNHS,HSD->BND", "BND,DHK->BHNK", "BHNK,HKD->BND"],
)
def test_the_gradient_is_that_of_the_einsum(equation):
    """For outputs that are larger than the input and smaller ones."""
    axes = equation.replace("->", ",").split(",")
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel, d_y = (
        jax.random.normal(key, [_SIZES[axis] for axis in own]) for key, own in zip(keys, axes, strict=True)
    )

    def ours(x, kernel):
        return jnp.sum(apply_affine(equation, x, kernel, jnp.zeros(())) * d_y)

    def plain(x, kernel):
        return jnp.sum(jnp.einsum(equation, x, kernel) * d_y)

    for mine, theirs in zip(*(jax.jit(jax.grad(f, (0, 1)))(x, kernel) for f in (ours, plain)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
