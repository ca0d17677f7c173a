"""What holds for every attention of the table: dropout, types, batches cut and networks side by side."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.attention import ATTENTIONS, SelfAttention
from eanet.attention.dropout import per_example_dropout
from helpers.layers import apply, dropout_key, random_params, tokens

_SIZES = {"external": {"num_heads": 2}, "conv": {"conv_dim": 12}}
MODULES = {
    name: functools.partial(make, **_SIZES.get(name, {"num_heads": 2, "head_dim": 8}))
    for name, make in ATTENTIONS.items()
    if make
} | {
    "self, learned keys": functools.partial(SelfAttention, 2, 8, key_source="learned"),
    "self, learned values": functools.partial(SelfAttention, 2, 8, value_source="learned"),
    "self, both learned": functools.partial(SelfAttention, 2, 8, key_source="learned", value_source="learned"),
}
# Whether permuted tokens give the same output, permuted.
EQUIVARIANT = {
    "external": True,
    "self": True,
    "induced": True,
    "linear": True,
    "random": False,
    "conv": False,
    "self, learned keys": False,
    "self, learned values": False,
    "self, both learned": True,  # because no token sees another
}
_TOKENS = 9  # a square, for the convolution

every_attention = pytest.mark.parametrize("name", MODULES)


def _setting(name, **fields):
    module, x = MODULES[name](**fields), tokens(count=_TOKENS)
    return module, x, jax.tree.map(lambda leaf: leaf / 2, random_params(module, x))


@every_attention
@pytest.mark.parametrize("shape", [(2, 4, 4, 16), (6, 16), (16,)], ids=str)
def test_an_input_with_another_number_of_axes_is_refused_with_its_shape(name, shape):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(MODULES[name]().init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    assert str(error.value) == f"the input has shape {shape}; accepted: [batch, tokens, channels]"


@every_attention
def test_permuted_tokens_give_a_permuted_output_or_do_not(name):
    module, x, params = _setting(name)
    order = np.random.default_rng(0).permutation(_TOKENS)
    difference = np.abs(apply(module, params, x[:, order]) - apply(module, params, x)[:, order]).max()
    assert difference < 1e-5 if EQUIVARIANT[name] else difference > 1e-3


@every_attention
def test_bfloat16_is_of_activations_only(name):
    module, x, params = _setting(name)
    narrow = module.clone(dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(random_params(narrow, x))} == {jnp.dtype("float32")}
    out, exact = apply(narrow, params, x), apply(module, params, x)
    assert out.dtype == jnp.bfloat16 and exact.dtype == jnp.float32
    difference = np.abs(np.asarray(out, np.float32) - exact)
    assert 0 < difference.max() < 0.05 * np.abs(exact).max()


@every_attention
@pytest.mark.parametrize("which", ["attention_dropout", "projection_dropout"])
def test_each_dropout_acts_in_training_only(name, which):
    module, x, params = _setting(name)
    if not hasattr(module, which):
        assert which == "attention_dropout" and name in ("linear", "conv")  # which have no map
        return
    dropping = module.clone(**{which: 0.5})
    one, other = (apply(dropping, params, x, deterministic=False, rngs=dropout_key(i)) for i in (0, 1))
    assert np.abs(np.asarray(one - other)).max() > 0.01
    np.testing.assert_array_equal(apply(dropping, params, x), apply(module, params, x))
    # Dropout of the output zeroes entries; dropout of the map leaves none at exactly 0.
    assert (np.mean(np.asarray(one) == 0) > 0.2) == (which == "projection_dropout")


@every_attention
def test_a_batch_that_is_cut_drops_the_same_and_gives_the_same(name):
    """As micro-batches are cut, and as devices share a batch."""
    fields = {"attention_dropout": 0.3} if hasattr(MODULES[name](), "attention_dropout") else {}
    module, x, params = _setting(name, projection_dropout=0.3, **fields)
    x = jnp.concatenate([x, 2 * x])

    @jax.jit
    def dropped(x, places):
        with per_example_dropout(places):
            return module.apply({"params": params}, x, deterministic=False, rngs={"dropout": jax.random.key(0)})

    whole = dropped(x, jnp.arange(4))
    parts = [dropped(x[i : i + 2], jnp.arange(i, i + 2)) for i in (0, 2)]
    np.testing.assert_allclose(jnp.concatenate(parts), whole, atol=1e-5)
    assert np.abs(dropped(x, jnp.arange(4, 8)) - whole).max() > 0.01


@every_attention
def test_networks_side_by_side_compute_what_each_computes_alone(name):
    """In value and gradient, as the members of a run do."""
    module, x, params = _setting(name)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 0.7]), params)
    gradient = jax.jit(jax.value_and_grad(lambda p: jnp.sum(jnp.sin(module.apply({"params": p}, x)))))
    together = jax.jit(jax.vmap(gradient))(several)
    for i in range(2):
        alone = gradient(jax.tree.map(lambda leaf, i=i: leaf[i], several))
        for ours, theirs in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(ours, theirs[i], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["external", "self", "induced", "linear", "random"])
def test_sizes_that_do_not_divide_are_named_before_compilation(name):
    fields = {} if name == "external" else {"head_dim": 0}
    with pytest.raises(ValueError, match=r"^num_heads=3 does not divide the 16 channels\b"):
        jax.eval_shape(MODULES[name](**fields | {"num_heads": 3}).init, jax.random.key(0), tokens())


@pytest.mark.parametrize("name", ["external", "induced"])
def test_a_coefficient_that_does_not_divide_is_named_before_compilation(name):
    with pytest.raises(ValueError, match=r"^dim_coefficient=5 does not divide the 16 channels\b"):
        jax.eval_shape(MODULES[name](dim_coefficient=5).init, jax.random.key(0), tokens())
    jax.eval_shape(MODULES[name](dim_coefficient=5, memory_size=6).init, jax.random.key(0), tokens())


def test_the_table_is_tested_whole():
    assert {name for name, make in ATTENTIONS.items() if make} <= set(EQUIVARIANT) == set(MODULES)
