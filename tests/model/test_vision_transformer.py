"""The vision transformer: counts, shapes, where attention is the only difference, and what must not compile."""

import functools
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from eanet import ExternalAttention, build_model
from eanet.config.rules import flatten
from eanet.model.vision_transformer import count_parameters, patches

SMALL = {"dim": 16, "depth": 2, "mlp_dim": 8, "num_heads": 2, "head_dim": 4, "dim_coefficient": 2}


def config_of(arm):
    return importlib.import_module(f"configs.{arm}").get_config()


def small(num_classes=5, **fields):
    model_config = default.get_config().model
    model_config.update(SMALL | fields)
    return build_model(model_config, num_classes=num_classes)


def shapes_of(module, image_shape=(2, 8, 8, 3)):
    return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(image_shape))["params"]


def random_params(module, image_shape=(2, 8, 8, 3)):
    leaves, tree = jax.tree.flatten(shapes_of(module, image_shape))
    rng = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype) for leaf in leaves])


def images(shape=(2, 8, 8, 3), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.partial(jax.jit, static_argnames=("module", "deterministic"))
def logits_of(module, params, x, deterministic=True, rngs=None):
    return module.apply({"params": params}, x, deterministic=deterministic, rngs=rngs)


@pytest.mark.parametrize("arm, count", [("eanet", 361_380), ("vit", 623_268)])
def test_parameter_counts_are_the_documents(arm, count):
    module = build_model(config_of(arm).model, num_classes=100)
    params = shapes_of(module, (1, 32, 32, 3))
    assert count_parameters(params) == count
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_arms_differ_in_the_attention_and_nothing_else():
    eanet, vit = (flatten(config_of(arm).to_dict()) for arm in ("eanet", "vit"))
    assert eanet.keys() == vit.keys()
    differing = {field: (eanet[field], vit[field]) for field in eanet if eanet[field] != vit[field]}
    assert differing == {"model.attention": ("external", "self"), "model.projection_dropout": (0.2, 0.0)}


def test_parameters_of_the_arms_differ_inside_the_attention_only():
    eanet, vit = (shapes_of(build_model(config_of(arm).model, 100), (1, 32, 32, 3)) for arm in ("eanet", "vit"))
    assert set(eanet["block_0"]["attention"]) == {"expand", "memory_key", "memory_value", "project"}
    assert set(vit["block_0"]["attention"]) == {"query", "key", "value", "out"}
    for params in (eanet, vit):
        for block in range(8):
            del params[f"block_{block}"]["attention"]
    assert jax.tree.structure(eanet) == jax.tree.structure(vit)
    assert jax.tree.leaves(eanet) == jax.tree.leaves(vit)


@pytest.mark.parametrize("attention", ["external", "self", "none"])
@pytest.mark.parametrize("extra", [{}, {"depth": 0}, {"dtype": "bfloat16"}], ids=str)
def test_logits_have_a_number_for_every_class_in_float32(attention, extra):
    module = small(7, attention=attention, **extra)
    logits = jax.eval_shape(module.apply, {"params": shapes_of(module)}, images())
    assert logits.shape == (2, 7) and logits.dtype == jnp.float32


@pytest.mark.parametrize("attention", ["external", "self", "none"])
def test_dtype_changes_the_arithmetic_but_no_parameter(attention):
    exact, rough = small(attention=attention), small(attention=attention, dtype="bfloat16")
    assert jax.tree.leaves(shapes_of(exact)) == jax.tree.leaves(shapes_of(rough))
    params = random_params(exact)
    difference = np.abs(np.asarray(logits_of(exact, params, images()) - logits_of(rough, params, images())))
    assert 0 < difference.max() < 0.2


def test_depth_zero_is_embedding_and_classifier():
    params = shapes_of(small(depth=0))
    assert set(params) == {"patch_embedding", "position_embedding", "classifier"}


def test_no_attention_leaves_only_the_mlp_in_a_block():
    assert set(shapes_of(small(attention="none"))["block_0"]) == {"mlp_norm", "mlp_in", "mlp_out"}


@pytest.mark.parametrize("tie", [False, True])
def test_shared_memories_are_one_pair_at_the_top(tie):
    own, shared = (
        shapes_of(small(share_memories=share, memory_size=5, tie_memories=tie, depth=3)) for share in (False, True)
    )
    for block in (f"block_{i}" for i in range(3)):
        assert set(own[block]["attention"]) == {"expand", "memory_key", "memory_value", "project"}
        assert set(shared[block]["attention"]) == {"expand", "project"}
    assert not {"memory_key", "memory_value"} & set(own)
    pair = {name: own["block_0"]["attention"][name] for name in ("memory_key", "memory_value")}
    assert {name: shared[name] for name in pair} == pair
    assert count_parameters(own) - count_parameters(shared) == 2 * count_parameters(pair)


def test_shared_memories_give_what_equal_memories_in_every_block_give():
    own, shared = small(), small(share_memories=True)
    params = random_params(shared)
    pair = {name: params[name] for name in ("memory_key", "memory_value")}
    spread = {name: value for name, value in params.items() if name not in pair}
    for block in ("block_0", "block_1"):
        spread[block] = params[block] | {"attention": params[block]["attention"] | pair}
    ours, theirs = logits_of(shared, params, images()), logits_of(own, spread, images())
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # And the second block's memories matter, so the equality above is one of both blocks.
    spread["block_1"]["attention"]["memory_value"] = pair["memory_value"] | {
        "kernel": 2 * pair["memory_value"]["kernel"]
    }
    assert np.abs(np.asarray(logits_of(own, spread, images()) - ours)).max() > 1e-3


def test_patches_run_row_by_row_each_as_row_column_channel():
    x = np.arange(2 * 6 * 6 * 3).reshape(2, 6, 6, 3)
    cut = np.asarray(patches(jnp.asarray(x), 2))
    assert cut.shape == (2, 9, 12)
    for image in range(2):
        for row in range(3):
            for column in range(3):
                piece = x[image, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                expected = [piece[i, j, k] for i in range(2) for j in range(2) for k in range(3)]
                assert cut[image, 3 * row + column].tolist() == expected


def shuffle_patches(x, order, patch=2):
    """Lay the patches of each image out in another order."""
    side = x.shape[1] // patch
    out = np.empty_like(x)
    for to, origin in enumerate(order):
        (a, b), (c, d) = divmod(to, side), divmod(int(origin), side)
        out[:, a * patch : (a + 1) * patch, b * patch : (b + 1) * patch] = x[
            :, c * patch : (c + 1) * patch, d * patch : (d + 1) * patch
        ]
    return jnp.asarray(out)


@pytest.mark.parametrize(
    "fields",
    [
        {"attention": "external"},
        {"attention": "external", "normalization": "tokens"},
        {"attention": "external", "normalization": "slots"},
        {"attention": "self"},
        {"attention": "none"},
    ],
    ids=str,
)
def test_logits_do_not_depend_on_the_order_of_patches_with_their_positions(fields):
    module = small(**fields)
    params, x = random_params(module), images()
    order = np.random.default_rng(1).permutation(16)
    moved = params | {"position_embedding": params["position_embedding"][order]}
    shuffled = shuffle_patches(np.asarray(x), order)

    logits = logits_of(module, params, x)
    np.testing.assert_allclose(logits_of(module, moved, shuffled), logits, atol=2e-5)
    # Only one of the two moved is another picture.
    for changed in (logits_of(module, params, shuffled), logits_of(module, moved, x)):
        assert np.abs(np.asarray(changed - logits)).max() > 1e-3


def test_initialisers_are_those_of_keras():
    model_config = default.get_config().model
    model_config.depth = 1
    module = build_model(model_config, num_classes=100)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    positions = np.asarray(params["position_embedding"])
    assert positions.shape == (256, 64)
    assert positions.min() < -0.0499 and positions.max() > 0.0499 and np.abs(positions).max() <= 0.05
    for layer, fans in [("patch_embedding", (12, 64)), ("classifier", (64, 100))]:
        limit, kernel = np.sqrt(6 / sum(fans)), np.asarray(params[layer]["kernel"])
        assert kernel.shape == fans
        assert 0.97 * limit < np.abs(kernel).max() <= limit
        assert not np.any(params[layer]["bias"])
    for layer in ("mlp_in", "mlp_out"):
        kernel = np.asarray(params["block_0"][layer]["kernel"])
        assert 0.97 * np.sqrt(6 / 128) < np.abs(kernel).max() <= np.sqrt(6 / 128)


def reference_block(p, x, attend):
    """One pre-norm block with attention, of the Keras example, in NumPy."""

    def norm(y, q):
        centred = y - y.mean(-1, keepdims=True)
        return centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-5) * q["scale"] + q["bias"]

    def gelu(y):  # the tanh form
        return y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))

    x = x + attend(norm(x, p["attention_norm"]))
    hidden = gelu(norm(x, p["mlp_norm"]) @ p["mlp_in"]["kernel"] + p["mlp_in"]["bias"])
    return x + hidden @ p["mlp_out"]["kernel"] + p["mlp_out"]["bias"]


@pytest.mark.parametrize("attention", ["external", "self"])
def test_whole_network_equals_the_documents_arithmetic(attention):
    module = small(attention=attention)
    params, x = random_params(module), images()
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    cut = np.asarray(patches(x, 2), np.float64)
    tokens = cut @ p["patch_embedding"]["kernel"] + p["patch_embedding"]["bias"] + p["position_embedding"][None]
    for name in ("block_0", "block_1"):
        layer, of_block = module.attention(), params[name]["attention"]

        def attend(y, layer=layer, of_block=of_block):
            return np.asarray(layer.apply({"params": of_block}, jnp.asarray(y, jnp.float32)), np.float64)

        tokens = reference_block(p[name], tokens, attend)
    expected = tokens.mean(1) @ p["classifier"]["kernel"] + p["classifier"]["bias"]
    np.testing.assert_allclose(logits_of(module, params, x), expected, atol=3e-5, rtol=3e-5)


@pytest.mark.parametrize("shape, numbers", [((1, 8, 6, 3), ("8", "6")), ((1, 9, 9, 3), ("9", "2"))])
def test_images_that_cannot_be_cut_are_named_with_both_numbers(shape, numbers):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(small().init, jax.random.key(0), jnp.zeros(shape))
    words = str(error.value).replace("×", " ").replace(";", " ").split()
    assert all(number in words for number in numbers)


def test_another_image_size_than_at_initialisation_is_named():
    module = small()
    with pytest.raises(ValueError) as error:
        jax.eval_shape(module.apply, {"params": shapes_of(module)}, images((1, 12, 12, 3)))
    assert "12×12" in str(error.value)
    assert {"36", "16"} <= set(str(error.value).split())


@pytest.mark.parametrize("field, value", [("attention", "softmax"), ("dtype", "float16")])
def test_unknown_choices_are_named(field, value):
    with pytest.raises(ValueError, match=rf"{field}.*'{value}'.*accepted"):
        small(**{field: value})


def test_unknown_normalization_is_named_before_compilation():
    with pytest.raises(ValueError, match="^normalization=rows; accepted"):
        shapes_of(small(normalization="rows"))


@pytest.mark.parametrize("fields", [{"num_heads": 3}, {"dim_coefficient": 3}], ids=str)
def test_sizes_that_do_not_divide_are_named_before_compilation(fields):
    with pytest.raises(ValueError, match="=3 does not divide the 16 channels"):
        shapes_of(small(**fields))


@pytest.mark.parametrize("which", ["attention_dropout", "projection_dropout", "mlp_dropout"])
@pytest.mark.parametrize("attention", ["external", "self"])
def test_each_dropout_acts_in_training_only(which, attention):
    off = dict.fromkeys(("attention_dropout", "projection_dropout", "mlp_dropout"), 0.0)
    module, still = small(attention=attention, **off | {which: 0.5}), small(attention=attention, **off)
    params, x = random_params(module), images()
    exact = logits_of(module, params, x, deterministic=True)
    np.testing.assert_array_equal(exact, logits_of(still, params, x, deterministic=True))
    # Of the generator that compiles at once; threefry's rounds take the CPU seconds each.
    keys = ({"dropout": jax.random.key(seed, impl="rbg")} for seed in (0, 0, 1))
    one, same, other = (logits_of(module, params, x, deterministic=False, rngs=key) for key in keys)
    np.testing.assert_array_equal(one, same)
    for drawn in (exact, other):
        assert np.abs(np.asarray(one - drawn)).max() > 1e-3


def test_maps_of_every_block_come_on_request():
    module = small()
    params = random_params(module)
    assert isinstance(module.apply({"params": params}, images()), jax.Array)
    _, state = module.apply({"params": params}, images(), mutable=["intermediates"])
    found = state["intermediates"]
    assert set(found) == {"block_0", "block_1"}
    (attention_map,) = found["block_1"]["attention"]["attention_map"]
    assert attention_map.shape == (2, 16, 4, 8)


def test_external_attention_works_in_a_users_own_module():
    class Mixer(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(24)(x)
            return x + ExternalAttention(num_heads=3, dim_coefficient=2)(x, deterministic=True)

    x = jnp.ones((2, 10, 7))
    params = jax.jit(Mixer().init)(jax.random.key(0), x)["params"]
    assert set(params["ExternalAttention_0"]) == {"expand", "memory_key", "memory_value", "project"}
    assert Mixer().apply({"params": params}, x).shape == (2, 10, 24)
