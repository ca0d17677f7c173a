"""Self-attention gives what its definition, written as plain loops in NumPy, gives."""

import jax.numpy as jnp
import numpy as np
import pytest

from eanet.attention.self_attention import SelfAttention
from helpers.layers import CHANNELS, TOKENS, apply, as_numpy, attention_map, random_params, shapes, tokens


def loop_self(params, x):
    """Multi-head self-attention one image, one head and one token at a time."""
    p, x = as_numpy(params), np.asarray(x, np.float64)
    _, heads, width = p["query"]["kernel"].shape
    out = np.zeros_like(x)
    for b in range(len(x)):
        for h in range(heads):
            q, k, v = (x[b] @ p[n]["kernel"][:, h] + p[n]["bias"][h] for n in ("query", "key", "value"))
            for n in range(x.shape[1]):
                scores = np.exp([q[n] @ k[m] / np.sqrt(width) for m in range(x.shape[1])])
                mixed = sum(score / scores.sum() * v[m] for m, score in enumerate(scores))
                out[b, n] += mixed @ p["out"]["kernel"][h]
        out[b] += p["out"]["bias"]
    return out


def test_parameters_of_self_attention():
    assert shapes(SelfAttention(4, 32), jnp.zeros((1, 4, 64))) == {
        **{name: {"kernel": (64, 4, 32), "bias": (4, 32)} for name in ("query", "key", "value")},
        "out": {"kernel": (4, 32, 64), "bias": (64,)},
    }


@pytest.mark.parametrize("num_heads, head_dim", [(1, 5), (2, 8), (4, 16), (4, 0)])
def test_self_attention_equals_a_plain_loop(num_heads, head_dim):
    module = SelfAttention(num_heads, head_dim)
    x = tokens()
    params = random_params(module, x)
    np.testing.assert_allclose(apply(module, params, x), loop_self(params, x), atol=2e-5, rtol=2e-5)


def test_head_dim_zero_divides_the_channels_among_the_heads():
    x = tokens()
    assert shapes(SelfAttention(4, 0), x) == shapes(SelfAttention(4, CHANNELS // 4), x)
    assert shapes(SelfAttention(4, 0), x) != shapes(SelfAttention(4, CHANNELS), x)


def test_self_attention_map_rows_sum_to_one_over_the_tokens():
    module = SelfAttention(2, 8)
    x = tokens()
    map_BHNM = attention_map(module, random_params(module, x), x)
    assert map_BHNM.shape == (2, 2, TOKENS, TOKENS)
    np.testing.assert_allclose(map_BHNM.sum(-1), np.ones((2, 2, TOKENS)), atol=1e-6)
