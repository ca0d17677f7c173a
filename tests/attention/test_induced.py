"""Induced set attention against a loop written from "Set Transformer" (arXiv 1810.00825), section 3.1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.attention.induced import InducedAttention
from eanet.model import footprint
from helpers.layers import (
    TOKENS,
    apply,
    as_numpy,
    check_gradient,
    dropout_key,
    fix_dropout,
    limit,
    loop_attend,
    random_params,
    tokens,
)


def loop_induced(params, x, summarize=None, distribute=None):
    """MAB(X, MAB(I, X)) one image at a time, where MAB is multi-head attention alone.

    The others multiply the maps as dropout does: [B, H, S, N] and [B, H, N, S].
    """
    p, x = as_numpy(params), np.asarray(x, np.float64)

    def multi_head(name, queries, others, dropout):
        heads, width, _ = p[f"{name}_out"]["kernel"].shape
        out = np.zeros((len(queries), x.shape[-1])) + p[f"{name}_out"]["bias"]
        for h in range(heads):
            q, k, v = (
                rows @ p[f"{name}_{part}"]["kernel"][:, h] + p[f"{name}_{part}"]["bias"][h]
                for part, rows in (("query", queries), ("key", others), ("value", others))
            )
            out += (
                loop_attend(q, k, v, 1 / np.sqrt(width), None if dropout is None else dropout[h])
                @ p[f"{name}_out"]["kernel"][h]
            )
        return out

    def one(y, over_tokens, over_slots):
        return multi_head("distribute", y, multi_head("summarize", p["inducing_points"], y, over_tokens), over_slots)

    none = [None] * len(x)
    return np.stack([one(*image) for image in zip(x, summarize or none, distribute or none, strict=True)])


@pytest.mark.parametrize("sizes", [(2, 5, 4, 3), (4, 0, 4, 0), (1, 8, 2, 0)], ids=str)
def test_induced_attention_equals_a_plain_loop(sizes):
    module, x = InducedAttention(*sizes), tokens()
    params = jax.tree.map(lambda leaf: leaf / 2, random_params(module, x))
    np.testing.assert_allclose(apply(module, params, x), loop_induced(params, x), atol=2e-5, rtol=2e-5)


def test_the_gradient_is_that_of_a_plain_loop():
    check_gradient(InducedAttention(2, 3, memory_size=3), loop_induced, tokens(channels=8))


def test_dropout_multiplies_both_maps_after_their_softmax(monkeypatch):
    factors = fix_dropout(monkeypatch)
    module, x = InducedAttention(2, 5, memory_size=3, attention_dropout=0.4), tokens()
    params = jax.tree.map(lambda leaf: leaf / 2, random_params(module, x))
    expected = loop_induced(params, x, list(factors(2, 2, 3, TOKENS)), list(factors(2, 2, TOKENS, 3)))
    out = apply(module, params, x, deterministic=False, rngs=dropout_key(0))
    np.testing.assert_allclose(out, expected, atol=2e-5, rtol=2e-5)


def test_there_are_as_many_inducing_points_as_external_attention_has_slots():
    x = jnp.zeros((1, 9, 64))
    assert shapes_of_points(InducedAttention(), x) == (16, 64)
    assert shapes_of_points(InducedAttention(dim_coefficient=2), x) == (32, 64)
    assert shapes_of_points(InducedAttention(dim_coefficient=5, memory_size=7), x) == (7, 64)
    params = jax.jit(InducedAttention(4, 32).init)(jax.random.key(0), x)["params"]
    limit(params["inducing_points"], np.sqrt(6 / (16 + 64)))


def shapes_of_points(module, x):
    return jax.eval_shape(module.init, jax.random.key(0), x)["params"]["inducing_points"].shape


def test_parameters():
    params = jax.eval_shape(InducedAttention(4, 16).init, jax.random.key(0), jnp.zeros((1, 9, 64)))["params"]
    projections = {f"{way}_{part}" for way in ("summarize", "distribute") for part in ("query", "key", "value", "out")}
    assert set(params) == {"inducing_points", *projections}
    assert params["summarize_key"]["kernel"].shape == (64, 4, 16)
    assert params["distribute_out"]["kernel"].shape == (4, 16, 64)


def test_multiply_adds_grow_with_tokens_times_slots():
    """Four projections of the tokens, four of the slots, and two products in each of the two attentions."""
    module, x = InducedAttention(4, 32, memory_size=5), jnp.zeros((1, 9, 64))
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    counted = footprint.count_macs(jax.make_jaxpr(module.apply)(params, x).jaxpr)
    assert counted == (4 * 9 + 4 * 5) * 64 * 4 * 32 + 4 * 9 * 5 * 4 * 32
