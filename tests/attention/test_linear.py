"""Linear attention against a loop written from its equation (arXiv 2006.16236, section 3.2)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.attention.linear import LinearAttention
from eanet.model import footprint
from helpers.layers import apply, as_numpy, check_gradient, random_params, shapes, tokens


def loop_linear(params, x):
    """Weigh all values by φ(query) · φ(key), one image, one head and one token at a time."""
    p, x = as_numpy(params), np.asarray(x, np.float64)
    out = np.zeros_like(x) + p["out"]["bias"]

    def phi(y):
        return np.array([z + 1 if z > 0 else np.exp(z) for z in y])

    for b in range(len(x)):
        for h in range(p["out"]["kernel"].shape[0]):
            q, k, v = (x[b] @ p[name]["kernel"][:, h] + p[name]["bias"][h] for name in ("query", "key", "value"))
            for n in range(x.shape[1]):
                weights = [phi(q[n]) @ phi(key) for key in k]
                mixed = sum(weight * value for weight, value in zip(weights, v, strict=True)) / sum(weights)
                out[b, n] += mixed @ p["out"]["kernel"][h]
    return out


@pytest.mark.parametrize("num_heads, head_dim", [(1, 5), (2, 8), (4, 0)])
def test_linear_attention_equals_a_plain_loop(num_heads, head_dim):
    module, x = LinearAttention(num_heads, head_dim), tokens()
    params = random_params(module, x)
    np.testing.assert_allclose(apply(module, params, x), loop_linear(params, x), atol=2e-5, rtol=2e-5)


def test_the_gradient_is_that_of_a_plain_loop():
    check_gradient(LinearAttention(2, 3), loop_linear, tokens(channels=8))


def test_features_far_below_zero_still_weigh():
    """elu(-40) + 1 is 0 in float32; with it a token that no key resembles would be divided by 0."""
    module, x = LinearAttention(2, 3), tokens(channels=8)
    params = random_params(module, x)
    params["query"]["bias"] = jnp.full((2, 3), -40.0)
    np.testing.assert_allclose(apply(module, params, x), loop_linear(params, x), atol=1e-3, rtol=1e-3)


def test_parameters_are_those_of_self_attention():
    assert shapes(LinearAttention(4, 32), jnp.zeros((1, 4, 64))) == {
        **{name: {"kernel": (64, 4, 32), "bias": (4, 32)} for name in ("query", "key", "value")},
        "out": {"kernel": (4, 32, 64), "bias": (64,)},
    }


def test_multiply_adds_are_linear_in_the_tokens():
    """Four projections, the sums of keys and values and their use by the queries, and the denominators."""
    module, x = LinearAttention(4, 32), jnp.zeros((1, 9, 64))
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    counted = footprint.count_macs(jax.make_jaxpr(module.apply)(params, x).jaxpr)
    assert counted == 9 * (4 * 64 * 4 * 32 + 2 * 4 * 32 * 32 + 4 * 32)
