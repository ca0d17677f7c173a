"""The depthwise convolution of the token grid against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.attention.convolution import Convolution, depthwise
from eanet.model import footprint
from helpers.layers import apply, as_numpy, check_gradient, limit, random_params, shapes, tokens


def loop_convolution(params, x):
    """Sum the nine neighbours of each token, channel by channel, between two linear layers; zeros around the grid."""
    p, x = as_numpy(params), np.asarray(x, np.float64)
    side, kernel = int(np.sqrt(x.shape[1])), p["depthwise"]["kernel"][:, :, 0]
    out = np.zeros_like(x)
    for b in range(len(x)):
        grid = (x[b] @ p["expand"]["kernel"] + p["expand"]["bias"]).reshape(side, side, -1)
        for row in range(side):
            for column in range(side):
                mixed = p["depthwise"]["bias"].copy()
                for i in (-1, 0, 1):
                    for j in (-1, 0, 1):
                        if 0 <= row + i < side and 0 <= column + j < side:
                            mixed += kernel[i + 1, j + 1] * grid[row + i, column + j]
                out[b, row * side + column] = mixed @ p["project"]["kernel"] + p["project"]["bias"]
    return out


@pytest.mark.parametrize("conv_dim, count", [(0, 9), (5, 16), (24, 4), (3, 1)])
def test_convolution_equals_a_plain_loop(conv_dim, count):
    module, x = Convolution(conv_dim), tokens(count=count)
    params = random_params(module, x)
    np.testing.assert_allclose(apply(module, params, x), loop_convolution(params, x), atol=2e-5, rtol=2e-5)


def test_the_sum_of_shifts_is_xlas_convolution_in_value_and_gradient():
    modules = [Convolution(5, xla_convolution=xla_convolution) for xla_convolution in (False, True)]
    x = tokens(count=16, channels=8)
    params = random_params(modules[0], x)

    def value(module, params, x):
        return jnp.sum(jnp.sin(module.apply({"params": params}, x)))

    gradient = jax.jit(jax.value_and_grad(value, argnums=(1, 2)), static_argnums=0)
    ours, theirs = (gradient(module, params, x) for module in modules)
    for one, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-5)
    programs = [str(jax.make_jaxpr(lambda m=m: m.apply({"params": params}, x))()) for m in modules]
    assert ["conv_general_dilated" in program for program in programs] == [False, True]


def test_in_bfloat16_the_gradient_of_the_sum_is_nearly_float32s():
    x, kernel = tokens(count=16, channels=8).reshape(2, 4, 4, 8), jax.random.normal(jax.random.key(1), (3, 3, 8))

    def gradient(x):
        return jax.grad(lambda x, kernel: jnp.sum(jnp.sin(depthwise(x, kernel).astype(jnp.float32))), (0, 1))(x, kernel)

    ours, exact = gradient(x.astype(jnp.bfloat16)), gradient(x)
    assert [part.dtype for part in ours] == [jnp.bfloat16, jnp.float32]
    for one, other in zip(ours, exact, strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float32), other, atol=0.05 * np.abs(other).max())


def test_the_gradient_is_that_of_a_plain_loop():
    check_gradient(Convolution(5), loop_convolution, tokens(count=9, channels=8))


def test_tokens_that_are_no_square_are_refused():
    with pytest.raises(ValueError, match="^the input has 6 tokens; accepted: a square number"):
        jax.eval_shape(Convolution().init, jax.random.key(0), tokens(count=6))


def test_parameters_and_initialisers_are_those_of_keras():
    x = jnp.zeros((1, 4, 64))
    assert shapes(Convolution(24), x) == {
        "expand": {"kernel": (64, 24), "bias": (24,)},
        "depthwise": {"kernel": (3, 3, 1, 24), "bias": (24,)},
        "project": {"kernel": (24, 64), "bias": (64,)},
    }
    params = jax.jit(Convolution(200).init)(jax.random.key(0), x)["params"]
    limit(params["depthwise"]["kernel"], np.sqrt(6 / (9 * 200 + 9)))  # DepthwiseConv2D's, of its [3, 3, 200, 1]
    limit(params["expand"]["kernel"], np.sqrt(6 / (64 + 200)))


def test_multiply_adds_are_nine_a_channel_and_token_besides_the_linear_layers():
    module, x = Convolution(24, **Convolution.PUBLISHED), jnp.zeros((1, 16, 64))
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    counted = footprint.count_macs(jax.make_jaxpr(module.apply)(params, x).jaxpr)
    assert counted == 16 * 24 * (64 + 9 + 64)
