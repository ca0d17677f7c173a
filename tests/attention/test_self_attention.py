"""Self-attention gives what its definition, written as plain loops in NumPy, gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.attention.dropout import Dropout
from eanet.attention.self_attention import SelfAttention
from eanet.model import footprint
from helpers.layers import (
    CHANNELS,
    TOKENS,
    apply,
    as_numpy,
    attention_map,
    check_gradient,
    dropout_key,
    fix_dropout,
    limit,
    loop_attend,
    random_params,
    shapes,
    tokens,
)


def loop_self(params, x, dropout=None):
    """Multi-head self-attention one image, head and token at a time; dropout [B, H, N, M] multiplies the map."""
    p, x = as_numpy(params), np.asarray(x, np.float64)
    _, heads, width = p["query"]["kernel"].shape

    def rows(name, image, h):
        if f"learned_{name}" in p:
            return p[f"learned_{name}"][h]
        return image @ p[name]["kernel"][:, h] + p[name]["bias"][h]

    out = np.zeros_like(x)
    for b in range(len(x)):
        for h in range(heads):
            q, k, v = (rows(name, x[b], h) for name in ("query", "key", "value"))
            mixed = loop_attend(q, k, v, 1 / np.sqrt(width), None if dropout is None else dropout[b, h])
            out[b] += mixed @ p["out"]["kernel"][h]
        out[b] += p["out"]["bias"]
    return out


def test_parameters_of_self_attention():
    assert shapes(SelfAttention(4, 32), jnp.zeros((1, 4, 64))) == {
        **{name: {"kernel": (64, 4, 32), "bias": (4, 32)} for name in ("query", "key", "value")},
        "out": {"kernel": (4, 32, 64), "bias": (64,)},
    }


@pytest.mark.parametrize("merge_linear", [True, False])
@pytest.mark.parametrize("num_heads, head_dim", [(1, 5), (2, 8), (4, 16), (4, 0)])
def test_self_attention_equals_a_plain_loop(num_heads, head_dim, merge_linear):
    module = SelfAttention(num_heads, head_dim, merge_linear=merge_linear)
    x = tokens()
    params = random_params(module, x)
    np.testing.assert_allclose(apply(module, params, x), loop_self(params, x), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("merge_linear", [True, False])
def test_the_gradient_is_that_of_a_plain_loop(merge_linear):
    gradient, _ = check_gradient(SelfAttention(2, 5, merge_linear=merge_linear), loop_self, tokens())
    # The key's bias adds the same to all logits of a row.
    assert np.abs(gradient["key"]["bias"]).max() < 1e-4 < 0.1 < np.abs(gradient["query"]["bias"]).max()


_LEARNED = [("learned", "input"), ("input", "learned"), ("learned", "learned")]


@pytest.mark.parametrize("sources", _LEARNED, ids="-".join)
def test_learned_keys_and_values_equal_a_plain_loop(sources):
    module, x = SelfAttention(2, 5, key_source=sources[0], value_source=sources[1]), tokens()
    params = random_params(module, x)
    assert {name for name in params if name.startswith("learned")} == {
        f"learned_{name}" for name, source in zip(("key", "value"), sources, strict=True) if source == "learned"
    }
    np.testing.assert_allclose(apply(module, params, x), loop_self(params, x), atol=2e-5, rtol=2e-5)
    check_gradient(module, loop_self, x)


@pytest.mark.parametrize("sources, mixes", [*((pair, True) for pair in _LEARNED[:2]), (_LEARNED[2], False)], ids=str)
def test_with_both_learned_no_token_sees_another(sources, mixes):
    module, x = SelfAttention(2, 5, key_source=sources[0], value_source=sources[1]), tokens()
    params = random_params(module, x)
    change = np.abs(apply(module, params, x.at[:, 2].add(1.0)) - apply(module, params, x))
    assert change[:, 2].max() > 0.01
    others = np.delete(change, 2, axis=1).max()
    assert others > 1e-3 if mixes else others == 0


@pytest.mark.parametrize("field", ["key_source", "value_source"])
def test_another_source_is_refused(field):
    with pytest.raises(ValueError, match=rf"^{field}=tokens; accepted: input, learned\b"):
        jax.eval_shape(SelfAttention(2, 5, **{field: "tokens"}).init, jax.random.key(0), tokens())


def test_learned_keys_are_a_row_for_each_token_and_head():
    x = jnp.zeros((1, 9, 64))
    params = jax.jit(SelfAttention(4, 32, key_source="learned", value_source="learned").init)(jax.random.key(0), x)[
        "params"
    ]
    assert set(params) == {"query", "out", "learned_key", "learned_value"}
    for name in ("learned_key", "learned_value"):
        assert params[name].shape == (4, 9, 32)
        limit(params[name], np.sqrt(6 / (9 + 32)))
    with pytest.raises(ValueError, match=r"^key_source=learned has 9 tokens, the input 4\b"):
        jax.eval_shape(SelfAttention(4, 32, key_source="learned").apply, {"params": params}, x[:, :4])


@pytest.mark.parametrize("sources", [("input", "input"), *_LEARNED], ids="-".join)
def test_dropout_multiplies_the_map_after_its_softmax(monkeypatch, sources):
    factors = fix_dropout(monkeypatch)
    module = SelfAttention(2, 5, attention_dropout=0.4, key_source=sources[0], value_source=sources[1])
    x = tokens()
    params = random_params(module, x)
    expected = loop_self(params, x, factors(2, 2, TOKENS, TOKENS))
    out = apply(module, params, x, deterministic=False, rngs=dropout_key(0))
    np.testing.assert_allclose(out, expected, atol=2e-5, rtol=2e-5)


def test_both_ways_of_computing_drop_the_same_of_the_same_map(monkeypatch):
    """A row's map then no longer sums to one, so that the value's bias is added more or less often."""
    keep_BHNM = jax.random.bernoulli(jax.random.key(5), 0.6, (2, 4, TOKENS, TOKENS))

    def draw(self, shape):
        by_row = jnp.swapaxes(keep_BHNM, 1, 2).reshape(2, 4 * TOKENS, TOKENS)
        return (by_row if len(shape) == 3 else keep_BHNM), 1 / 0.6

    monkeypatch.setattr(Dropout, "draw", draw)
    x, rngs = tokens(), dropout_key(0)
    ways = [SelfAttention(4, 8, attention_dropout=0.4, merge_linear=merge) for merge in (True, False)]
    params = random_params(ways[0], x)

    def value(module, params, x):
        return jnp.sum(jnp.sin(module.apply({"params": params}, x, deterministic=False, rngs=rngs)))

    outputs = [apply(module, params, x, deterministic=False, rngs=rngs) for module in ways]
    np.testing.assert_allclose(*outputs, atol=2e-5)
    assert np.abs(outputs[0] - apply(ways[0], params, x)).max() > 0.1
    gradients = [jax.jit(jax.grad(value, argnums=(1, 2)), static_argnums=0)(module, params, x) for module in ways]
    for ours, theirs in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


@pytest.mark.parametrize(("tokens_", "head_dim", "merged"), [(256, 64, True), (256, 32, False), (64, 64, True)])
def test_kernels_are_merged_where_it_costs_fewer_multiplications(tokens_, head_dim, merged):
    def macs(merge_linear):
        module, x = SelfAttention(4, head_dim, merge_linear=merge_linear), jnp.zeros((2, tokens_, 64))
        params = jax.eval_shape(module.init, jax.random.key(0), x)
        return footprint.count_macs(jax.make_jaxpr(module.apply)(params, x).jaxpr)

    assert (macs(True) < macs(False)) == merged and macs(None) == min(macs(True), macs(False))


def test_the_map_itself_is_computed_on_request_only():
    """The output needs no map divided by its sums; the map alone is a product of 8 numbers for each of its own."""
    module, x = SelfAttention(2, 8, merge_linear=False), tokens()
    params = {"params": random_params(module, x)}

    def macs(mutable):
        return footprint.count_macs(jax.make_jaxpr(lambda x: module.apply(params, x, mutable=mutable))(x).jaxpr)

    assert macs(["intermediates"]) - macs([]) == 2 * 2 * TOKENS * TOKENS * 8


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
