"""External attention against loops written from the paper (arXiv 2105.02358, sections 3.2 and 3.3)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.attention.external import NORMALIZATIONS, ExternalAttention, normalize_map
from helpers.layers import (
    CHANNELS,
    TOKENS,
    apply,
    as_numpy,
    attention_map,
    check_gradient,
    dropout_key,
    fix_dropout,
    intermediate_shapes,
    random_params,
    shapes,
    tokens,
)


def loop_normalize(logits, normalization):
    """Normalise the [tokens, slots] logits of one head entry by entry."""
    n, s = logits.shape
    if normalization == "l2_gelu":
        scaled = [[logits[i, j] * np.sqrt(s) / np.sqrt(np.sum(logits[i] ** 2)) for j in range(s)] for i in range(n)]
        return np.array([[z * (1 + math.erf(z / math.sqrt(2))) / 2 for z in row] for row in scaled])
    if normalization == "slots":
        return np.array([[np.exp(logits[i, j]) / np.exp(logits[i]).sum() for j in range(s)] for i in range(n)])
    over_tokens = np.array([[np.exp(logits[i, j]) / np.exp(logits[:, j]).sum() for j in range(s)] for i in range(n)])
    if normalization == "tokens":
        return over_tokens
    return np.array([[over_tokens[i, j] / over_tokens[i].sum() for j in range(s)] for i in range(n)])


def loop_external(params, x, heads, normalization, tied, dropout=None):
    """External attention one image, one head and one token at a time; dropout [B, N, H, S] multiplies the map."""
    p, x = as_numpy(params), np.asarray(x, np.float64)
    key = p["memory_key"]["kernel"]
    value = key.T if tied else p["memory_value"]["kernel"]
    key_bias = p["memory_key"].get("bias", np.zeros(key.shape[1]))
    value_bias = p["memory_value"].get("bias", np.zeros(key.shape[0])) if "memory_value" in p else 0.0
    width = key.shape[0]
    out = np.zeros_like(x)
    for b in range(len(x)):
        concatenated = np.zeros((x.shape[1], heads * width))
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            logits = np.zeros((x.shape[1], key.shape[1]))
            for n in range(x.shape[1]):
                expanded = x[b, n] @ p["expand"]["kernel"][:, part] + p["expand"]["bias"][part]
                logits[n] = expanded @ key + key_bias
            weights = loop_normalize(logits, normalization) * (1 if dropout is None else dropout[b, :, h])
            for n in range(x.shape[1]):
                concatenated[n, part] = weights[n] @ value + value_bias
        for n in range(x.shape[1]):
            out[b, n] = concatenated[n] @ p["project"]["kernel"] + p["project"]["bias"]
    return out


EXTERNAL_VARIANTS = [
    {},
    {"normalization": "tokens"},
    {"normalization": "slots"},
    {"normalization": "l2_gelu"},
    {"memory_bias": False},
    {"tie_memories": True},
    {"tie_memories": True, "memory_bias": False},
    {"tie_memories": True, "memory_size": 8},  # square: a forgotten transpose would fit as well
    {"memory_size": 7},
    {"memory_size": 64},  # two steps are cheaper than the merged kernels here
    {"dim_coefficient": 1},
    {"dim_coefficient": 2},
    {"dim_coefficient": 4},
    {"num_heads": 1},
    {"num_heads": 8, "normalization": "slots", "memory_size": 3},
]


@pytest.mark.parametrize("variant", EXTERNAL_VARIANTS, ids=str)
@pytest.mark.parametrize("merge", [True, False, pytest.param(None, marks=pytest.mark.system)])
def test_external_attention_equals_a_plain_loop(variant, merge):
    module = ExternalAttention(**{"num_heads": 2, "dim_coefficient": 4, "merge_linear": merge} | variant)
    x = tokens()
    params = random_params(module, x)
    heads = module.num_heads * module.dim_coefficient
    expected = loop_external(params, x, heads, module.normalization, module.tie_memories)
    np.testing.assert_allclose(apply(module, params, x), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("merge", [True, False])
def test_dropout_multiplies_the_normalised_map(monkeypatch, normalization, merge):
    factors = fix_dropout(monkeypatch)
    module = ExternalAttention(2, 4, 5, normalization, attention_dropout=0.4, merge_linear=merge)
    x = tokens()
    params = random_params(module, x)
    expected = loop_external(params, x, 8, normalization, False, factors(2, TOKENS, 8, 5))
    out = apply(module, params, x, deterministic=False, rngs=dropout_key(0))
    np.testing.assert_allclose(out, expected, atol=2e-5, rtol=2e-5)


def test_normalizations_differ_from_one_another():
    logits = np.random.default_rng(0).normal(size=(TOKENS, 5))
    maps = [loop_normalize(logits, name) for name in NORMALIZATIONS]
    for i in range(4):
        assert np.abs(maps[i] - maps[i - 1]).max() > 0.01
        ours = normalize_map(jnp.asarray(logits, jnp.float32)[None, :, None, :], NORMALIZATIONS[i])
        np.testing.assert_allclose(ours[0, :, 0], maps[i], atol=1e-6)


def test_unknown_normalization_is_named_with_the_accepted_ones():
    with pytest.raises(ValueError, match=r"^normalization=rows; accepted: double, tokens, slots, l2_gelu$"):
        normalize_map(jnp.zeros((1, 2, 1, 3)), "rows")


@pytest.mark.parametrize(
    "dropout, variant",
    [(0.0, variant) for variant in EXTERNAL_VARIANTS[:8]]
    + [pytest.param(0.0, variant, marks=pytest.mark.system) for variant in EXTERNAL_VARIANTS[8:]]
    + [(0.5, variant) for variant in EXTERNAL_VARIANTS[:5]],
    ids=str,
)
def test_merged_and_plain_agree_in_value_and_gradient(dropout, variant):
    settings = {"num_heads": 2, "dim_coefficient": 4, "attention_dropout": dropout} | variant
    merged, plain = (ExternalAttention(**settings, merge_linear=merge) for merge in (True, False))
    x, target = tokens(), tokens(9)
    # Small parameters: the comparison is of arithmetic, not of how a saturated softmax rounds.
    params = jax.tree.map(lambda leaf: leaf / 2, random_params(plain, x))
    # The arms differ: only the plain one ever holds the expanded tokens, [batch, tokens, heads, width].
    heads, width = merged.num_heads * merged.dim_coefficient, CHANNELS // merged.num_heads
    if width != (merged.memory_size or CHANNELS // merged.dim_coefficient):
        expanded = (*x.shape[:2], heads, width)
        assert expanded in intermediate_shapes(plain, params, x)
        assert expanded not in intermediate_shapes(merged, params, x)

    def loss(p, y, module):
        rngs = dropout_key(3)
        return jnp.mean(jnp.square(apply(module, p, y, deterministic=not dropout, rngs=rngs) - target))

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=2)
    results = [gradient(params, x, module) for module in (merged, plain)]
    if dropout:  # and the dropout really drops something
        assert abs(float(results[0][0]) - float(jnp.mean(jnp.square(apply(merged, params, x) - target)))) > 1e-4
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("memory_size", [4, 16, 64])
@pytest.mark.parametrize("num_heads", [1, 4, 8])
def test_default_is_whichever_way_is_cheaper(memory_size, num_heads):
    x = jnp.zeros((4, 256, 32))

    def flops(merge):
        module = ExternalAttention(num_heads, 4, memory_size, merge_linear=merge)
        params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
        return jax.jit(lambda p, y: apply(module, p, y)).lower(params, x).cost_analysis()["flops"]

    merged, plain = flops(True), flops(False)
    # Where the two nearly tie, multiplying the kernels together once a call may decide; both are right.
    if abs(merged - plain) > 0.03 * plain:
        assert flops(None) == min(merged, plain)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_gradient_is_that_of_a_plain_loop(normalization):
    module = ExternalAttention(2, 2, normalization=normalization)
    check_gradient(module, lambda params, x: loop_external(params, x, 4, normalization, False), tokens(channels=8))


def test_a_token_whose_logits_are_all_zero_has_a_map_of_zero_and_a_finite_gradient_with_l2_gelu():
    """A large one: GELU's slope of 1/2 there, divided by the root of the 1e-12 that keeps it finite."""
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(normalize_map(x, "l2_gelu")))(jnp.zeros((1, 2, 1, 3)))
    assert value == 0
    np.testing.assert_allclose(gradient, 5e5, rtol=1e-5)


def test_rows_of_the_double_norm_sum_to_one_and_columns_before_it():
    x = tokens()
    double, half = (ExternalAttention(2, normalization=name) for name in ("double", "tokens"))
    params = random_params(double, x)
    full_BNHS, half_BNHS = attention_map(double, params, x), attention_map(half, params, x)
    assert full_BNHS.shape == half_BNHS.shape == (2, TOKENS, 8, 4)
    np.testing.assert_allclose(full_BNHS.sum(-1), np.ones((2, TOKENS, 8)), atol=1e-6)
    np.testing.assert_allclose(half_BNHS.sum(1), np.ones((2, 8, 4)), atol=1e-6)
    # Neither is both at once, so the two sums above test two things.
    assert np.abs(np.asarray(full_BNHS.sum(1)) - 1).max() > 0.05
    assert np.abs(np.asarray(half_BNHS.sum(-1)) - 1).max() > 0.05


@pytest.mark.parametrize(
    "normalization, mixes", [("double", True), ("tokens", True), ("slots", False), ("l2_gelu", False)]
)
def test_only_a_softmax_over_tokens_mixes_tokens(normalization, mixes):
    module = ExternalAttention(2, normalization=normalization)
    x = tokens()
    params = random_params(module, x)
    change = np.abs(np.asarray(apply(module, params, x.at[:, 2].add(1.0)) - apply(module, params, x)))
    assert change[:, 2].max() > 0.01
    others = np.delete(change, 2, axis=1).max()
    assert others > 1e-3 if mixes else others == 0.0


@pytest.mark.parametrize(
    "normalization, dead", [("double", True), ("tokens", True), ("slots", False), ("l2_gelu", False)]
)
@pytest.mark.parametrize("merge", [True, False])
def test_bias_of_the_key_memory_is_dead_behind_a_softmax_over_tokens(normalization, dead, merge):
    module = ExternalAttention(2, normalization=normalization, merge_linear=merge)
    x = tokens()
    params = random_params(module, x)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(apply(module, p, x)))))(params)
    assert np.abs(gradient["memory_value"]["bias"]).max() > 0.1  # the gradient does arrive
    largest = np.abs(gradient["memory_key"]["bias"]).max()
    assert largest < 1e-4 if dead else largest > 0.1


def test_parameters_of_external_attention():
    x = jnp.zeros((1, 4, 64))
    assert shapes(ExternalAttention(4, 4), x) == {
        "expand": {"kernel": (64, 256), "bias": (256,)},
        "memory_key": {"kernel": (16, 16), "bias": (16,)},
        "memory_value": {"kernel": (16, 16), "bias": (16,)},
        "project": {"kernel": (256, 64), "bias": (64,)},
    }
    other = shapes(ExternalAttention(2, 2, memory_size=5), x)
    assert other["expand"]["kernel"] == (64, 128)
    assert other["memory_key"] == {"kernel": (32, 5), "bias": (5,)}
    assert other["memory_value"] == {"kernel": (5, 32), "bias": (32,)}
    plain = shapes(ExternalAttention(4, 4, memory_bias=False), x)
    assert plain["memory_key"] == plain["memory_value"] == {"kernel": (16, 16)}
    assert shapes(ExternalAttention(4, 4, tie_memories=True), x)["memory_value"] == {"bias": (16,)}


def test_parameters_are_the_same_either_way_of_computing():
    x = tokens()
    merged, plain = (ExternalAttention(2, merge_linear=merge) for merge in (True, False))
    one, other = (jax.jit(module.init)(jax.random.key(4), x) for module in (merged, plain))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_memories_of_somebody_else_are_used():
    class Pair(nn.Module):
        @nn.compact
        def __call__(self, x, deterministic=True):
            shared = ExternalAttention(2, share_memories=True, parent=None).shared_modules(CHANNELS)
            first, second = (ExternalAttention(2, **shared, name=name) for name in ("first", "second"))
            return first(x), second(x)

    x = tokens()
    params = random_params(Pair(), x)
    assert set(params) == {"memory_key", "memory_value", "first", "second"}
    memories = {name: params[name] for name in ("memory_key", "memory_value")}
    for name, out in zip(("first", "second"), apply(Pair(), params, x), strict=True):
        np.testing.assert_allclose(out, apply(ExternalAttention(2), params[name] | memories, x), atol=1e-5)


def test_the_written_out_derivative_of_the_double_norm_is_the_derivative():
    """Against automatic differentiation of the definition, forwards and backwards."""

    def definition(logits):
        softmax = jax.nn.softmax(logits, axis=1)
        return softmax / (1e-9 + jnp.sum(softmax, axis=-1, keepdims=True))

    logits, tangent, cotangent = (3 * jax.random.normal(jax.random.key(i), (2, 7, 3, 5)) for i in range(3))
    ours = jax.jvp(lambda x: normalize_map(x, "double"), (logits,), (tangent,))
    for value, expected in zip(ours, jax.jvp(definition, (logits,), (tangent,)), strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-6)
    (back,), (expected,) = (
        jax.vjp(function, logits)[1](cotangent) for function in (lambda x: normalize_map(x, "double"), definition)
    )
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(back, expected, atol=1e-6)
