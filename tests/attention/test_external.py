"""Both attentions against loops written from the paper (arXiv 2105.02358, sections 3.2 and 3.3)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.attention.external import ExternalAttention, normalize_map
from eanet.attention.self_attention import SelfAttention

CHANNELS, TOKENS = 16, 6


def dropout_key(seed):
    """A key of the generator that compiles at once; threefry's rounds take the CPU seconds each."""
    return {"dropout": jax.random.key(seed, impl="rbg")}


def tokens(seed=0, batch=2, count=TOKENS, channels=CHANNELS):
    return jax.random.normal(jax.random.key(seed), (batch, count, channels))


def random_params(module, x, seed=1):
    """Parameters with random biases: the initial zeros would hide a bias that is forgotten."""
    params = jax.eval_shape(module.init, jax.random.key(seed), x)["params"]
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return tree.unflatten([jnp.asarray(rng.normal(0, 0.4, leaf.shape), leaf.dtype) for leaf in leaves])


@functools.partial(jax.jit, static_argnames=("module", "deterministic"))
def apply(module, params, x, deterministic=True, rngs=None):
    """Call the module compiled: op by op, the many small shapes of these tests would compile for minutes."""
    return module.apply({"params": params}, x, deterministic=deterministic, rngs=rngs)


def attention_map(module, params, x):
    _, state = jax.jit(lambda p, y: module.apply({"params": p}, y, mutable=["intermediates"]))(params, x)
    return state["intermediates"]["attention_map"][0]


def as_numpy(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def loop_normalize(logits, normalization):
    """Normalise the [tokens, slots] logits of one head entry by entry."""
    n, s = logits.shape
    if normalization == "slots":
        return np.array([[np.exp(logits[i, j]) / np.exp(logits[i]).sum() for j in range(s)] for i in range(n)])
    over_tokens = np.array([[np.exp(logits[i, j]) / np.exp(logits[:, j]).sum() for j in range(s)] for i in range(n)])
    if normalization == "tokens":
        return over_tokens
    return np.array([[over_tokens[i, j] / over_tokens[i].sum() for j in range(s)] for i in range(n)])


def loop_external(params, x, heads, normalization, tied):
    """External attention one image, one head and one token at a time."""
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
            weights = loop_normalize(logits, normalization)
            for n in range(x.shape[1]):
                concatenated[n, part] = weights[n] @ value + value_bias
        for n in range(x.shape[1]):
            out[b, n] = concatenated[n] @ p["project"]["kernel"] + p["project"]["bias"]
    return out


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


EXTERNAL_VARIANTS = [
    {},
    {"normalization": "tokens"},
    {"normalization": "slots"},
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
@pytest.mark.parametrize("merge", [None, True, False], ids=lambda merge: f"merge={merge}")
def test_external_attention_equals_a_plain_loop(variant, merge):
    module = ExternalAttention(**{"num_heads": 2, "dim_coefficient": 4, "merge_linear": merge} | variant)
    x = tokens()
    params = random_params(module, x)
    heads = module.num_heads * module.dim_coefficient
    expected = loop_external(params, x, heads, module.normalization, module.tie_memories)
    np.testing.assert_allclose(apply(module, params, x), expected, atol=2e-5, rtol=2e-5)


def test_normalizations_differ_from_one_another():
    logits = np.random.default_rng(0).normal(size=(TOKENS, 5))
    maps = [loop_normalize(logits, name) for name in ("double", "tokens", "slots")]
    for i in range(3):
        assert np.abs(maps[i] - maps[i - 1]).max() > 0.01
        ours = normalize_map(jnp.asarray(logits, jnp.float32)[None, :, None, :], ("double", "tokens", "slots")[i])
        np.testing.assert_allclose(ours[0, :, 0], maps[i], atol=1e-6)


def test_unknown_normalization_is_named_with_the_accepted_ones():
    with pytest.raises(ValueError, match=r"'rows'.*double, tokens, slots"):
        normalize_map(jnp.zeros((1, 2, 1, 3)), "rows")


def intermediate_shapes(module, params, x):
    jaxpr = jax.make_jaxpr(lambda p, y: module.apply({"params": p}, y))(params, x)
    return {variable.aval.shape for equation in jaxpr.eqns for variable in equation.outvars}


@pytest.mark.parametrize(
    "dropout, variant",
    [(0.0, variant) for variant in EXTERNAL_VARIANTS] + [(0.5, variant) for variant in EXTERNAL_VARIANTS[:5]],
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


@pytest.mark.parametrize("normalization, mixes", [("double", True), ("tokens", True), ("slots", False)])
def test_only_a_softmax_over_tokens_mixes_tokens(normalization, mixes):
    module = ExternalAttention(2, normalization=normalization)
    x = tokens()
    params = random_params(module, x)
    change = np.abs(np.asarray(apply(module, params, x.at[:, 2].add(1.0)) - apply(module, params, x)))
    assert change[:, 2].max() > 0.01
    others = np.delete(change, 2, axis=1).max()
    assert others > 1e-3 if mixes else others == 0.0


@pytest.mark.parametrize("normalization, dead", [("double", True), ("tokens", True), ("slots", False)])
@pytest.mark.parametrize("merge", [True, False])
def test_bias_of_the_key_memory_is_dead_behind_a_softmax_over_tokens(normalization, dead, merge):
    module = ExternalAttention(2, normalization=normalization, merge_linear=merge)
    x = tokens()
    params = random_params(module, x)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(apply(module, p, x)))))(params)
    assert np.abs(gradient["memory_value"]["bias"]).max() > 0.1  # the gradient does arrive
    largest = np.abs(gradient["memory_key"]["bias"]).max()
    assert largest < 1e-4 if dead else largest > 0.1


def shapes(module, x):
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    assert set(params) == {"params"}
    return {name: {part: leaf.shape for part, leaf in sub.items()} for name, sub in params["params"].items()}


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


def limit(kernel, expected):
    largest, deviation = np.abs(kernel).max(), np.std(kernel)
    assert largest <= expected
    assert largest > 0.97 * expected
    assert deviation == pytest.approx(expected / np.sqrt(3), rel=0.1)


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
