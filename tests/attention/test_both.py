"""What external and self-attention have: types of both ways of computing, maps, and Keras's initialisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.attention.external import ExternalAttention
from eanet.attention.self_attention import SelfAttention
from helpers.layers import apply, attention_map, limit, random_params, tokens


def test_sizes_need_not_divide_where_nothing_is_divided():
    x = tokens()
    assert apply(SelfAttention(3, 4), random_params(SelfAttention(3, 4), x), x).shape == x.shape
    given = ExternalAttention(4, 5, memory_size=6)
    assert apply(given, random_params(given, x), x).shape == x.shape


@pytest.mark.parametrize(
    "module",
    [
        ExternalAttention(2, dtype=jnp.bfloat16, merge_linear=True),
        ExternalAttention(2, dtype=jnp.bfloat16, merge_linear=False),
        SelfAttention(2, 8, dtype=jnp.bfloat16),
    ],
    ids=["merged", "plain", "self"],
)
def test_bfloat16_is_of_activations_only(module):
    x = tokens()
    params = random_params(module, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    out = apply(module, params, x)
    exact = apply(module.clone(dtype=jnp.float32), params, x)
    assert out.dtype == jnp.bfloat16 and exact.dtype == jnp.float32
    assert attention_map(module, params, x).dtype == jnp.float32
    difference = np.abs(np.asarray(out, np.float32) - exact)
    assert 0 < difference.max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("module", [ExternalAttention(2), SelfAttention(2, 8)], ids=["external", "self"])
def test_attention_map_comes_only_on_request(module):
    x = tokens()
    params = random_params(module, x)
    plain = apply(module, params, x)
    assert isinstance(plain, jax.Array)
    out, state = jax.jit(lambda p, y: module.apply({"params": p}, y, mutable=["intermediates"]))(params, x)
    assert set(state) == {"intermediates"}
    assert {name.removesuffix("_over_tokens") for name in state["intermediates"]} == {"attention_map"}
    np.testing.assert_array_equal(out, plain)


def test_initialisers_are_those_of_keras():
    x = jnp.zeros((1, 4, 64))
    external = jax.jit(ExternalAttention(4, 4).init)(jax.random.key(0), x)["params"]
    limit(external["expand"]["kernel"], np.sqrt(6 / (64 + 256)))
    limit(external["project"]["kernel"], np.sqrt(6 / (64 + 256)))
    limit(external["memory_key"]["kernel"], np.sqrt(6 / 32))
    limit(external["memory_value"]["kernel"], np.sqrt(6 / 32))
    attention = jax.jit(SelfAttention(4, 64).init)(jax.random.key(0), x)["params"]
    for name in ("query", "key", "value"):
        limit(attention[name]["kernel"], 0.0371307)  # of the 3-D kernel; the flat one's would be 0.1369
    limit(attention["out"]["kernel"], 0.1082532)
    for name, sub in (external | attention).items():
        assert not np.any(sub["bias"]), name
