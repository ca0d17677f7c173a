"""What every attention has: its errors, types, maps, dropout and initialisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.attention.external import ExternalAttention
from eanet.attention.self_attention import SelfAttention
from helpers.layers import apply, attention_map, dropout_key, limit, random_params, tokens


@pytest.mark.parametrize(
    "module, numbers",
    [
        (ExternalAttention(num_heads=3, dim_coefficient=4), ("16", "num_heads=3")),
        (ExternalAttention(num_heads=4, dim_coefficient=5), ("16", "dim_coefficient=5")),
        (SelfAttention(num_heads=3, head_dim=0), ("16", "num_heads=3")),
    ],
    ids=["heads", "coefficient", "self"],
)
def test_sizes_that_do_not_divide_are_named_before_compilation(module, numbers):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(module.init, jax.random.key(0), tokens())
    assert all(number in str(error.value).split() for number in numbers)


@pytest.mark.parametrize("module", [ExternalAttention(), SelfAttention()], ids=["external", "self"])
@pytest.mark.parametrize("shape", [(2, 4, 4, 16), (6, 16), (16,)], ids=str)
def test_an_input_with_another_number_of_axes_is_refused_with_its_shape(module, shape):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    assert str(error.value) == f"the input has shape {shape}; accepted: [batch, tokens, channels]"


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
    assert set(state) == {"intermediates"} and set(state["intermediates"]) == {"attention_map"}
    np.testing.assert_array_equal(out, plain)


@pytest.mark.parametrize("make", [ExternalAttention, SelfAttention])
@pytest.mark.parametrize("which", ["attention_dropout", "projection_dropout"])
def test_each_dropout_acts_in_training_only(make, which):
    module = make(2, **{which: 0.5})
    x = tokens()
    params = random_params(module, x)
    one, other = (apply(module, params, x, deterministic=False, rngs=dropout_key(i)) for i in (0, 1))
    assert np.abs(np.asarray(one - other)).max() > 0.01
    np.testing.assert_array_equal(apply(module, params, x), apply(make(2), params, x))
    # Dropout of the output zeroes entries; dropout of the map leaves none at exactly 0.
    assert (np.mean(np.asarray(one) == 0) > 0.2) == (which == "projection_dropout")


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
