"""Parts of an attention that are switched off: nothing of it in training, and the same as zeros where they belong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.attention import ATTENTIONS, ExternalAttention, InducedAttention, SelfAttention
from eanet.attention.removal import COLLECTION, masks
from eanet.model.vision_transformer import VisionTransformer
from helpers.layers import apply, random_params, tokens

_SIZES = {"external": {"num_heads": 2, "dim_coefficient": 2, "memory_size": 5}, "conv": {"conv_dim": 12}}
_LAYERS = {
    name: make(**_SIZES.get(name, {"num_heads": 2, "head_dim": 8})) for name, make in ATTENTIONS.items() if make
} | {
    "self, merged": SelfAttention(2, 8, merge_linear=True),
    "external, not merged": ExternalAttention(2, 2, 5, merge_linear=False),
    "external, merged": ExternalAttention(2, 2, 5, merge_linear=True),
    "self, both learned": SelfAttention(2, 8, key_source="learned", value_source="learned"),
}
_PARTS = {"external": {"slots": (4, 5)}, "induced": {"slots": (2, 4)}, "conv": {}}
_TOKENS = 9

every_layer = pytest.mark.parametrize("name", _LAYERS)


def _setting(name):
    layer, x = _LAYERS[name], tokens(count=_TOKENS)
    return layer, x, random_params(layer, x)


def _without(layer, params, x, kept):
    return jax.jit(lambda p, y, k: layer.apply({"params": p, COLLECTION: k}, y))(params, x, kept)


@every_layer
def test_only_those_who_ask_get_masks(name):
    layer, x, params = _setting(name)
    assert set(jax.eval_shape(layer.init, jax.random.key(0), x)) - {"intermediates"} == {"params"}
    found = jax.tree.map(np.shape, masks(layer, params, x))
    assert found == _PARTS.get(name.partition(",")[0], {"heads": (2,)})
    text = str(jax.make_jaxpr(lambda p, y: layer.apply({"params": p}, y))(params, x))
    if found:
        kept = masks(layer, params, x)
        with_masks = str(jax.make_jaxpr(lambda p, y: layer.apply({"params": p, COLLECTION: kept}, y))(params, x))
        assert text.count("mul ") < with_masks.count("mul ")


@every_layer
def test_masks_of_ones_change_nothing_and_of_zeros_leave_what_is_no_function_of_the_input(name):
    layer, x, params = _setting(name)
    ones = masks(layer, params, x)
    np.testing.assert_allclose(_without(layer, params, x, ones), apply(layer, params, x), rtol=1e-5, atol=1e-5)
    zeros = jax.tree.map(jnp.zeros_like, ones)
    out, other = (_without(layer, params, y, zeros) for y in (x, tokens(seed=3, count=_TOKENS)))
    constant = float(np.abs(out - other).max())
    assert constant < 1e-6 if ones else constant > 0.1


@pytest.mark.parametrize("name", ["external", "external, merged", "external, not merged"])
def test_a_slot_without_its_row_of_the_memory_is_a_removed_slot(name):
    """M_v's kernel with a row of zeros gives, for all heads, what removing its slot gives."""
    layer, x, params = _setting(name)
    planted = jax.tree.map(lambda leaf: leaf, params)
    planted["memory_value"]["kernel"] = params["memory_value"]["kernel"].at[3].set(0)
    kept = masks(layer, params, x)
    kept["slots"] = kept["slots"].at[:, 3].set(0)
    removed = _without(layer, params, x, kept)
    np.testing.assert_allclose(removed, apply(layer, planted, x), rtol=1e-4, atol=1e-4)
    assert np.abs(removed - apply(layer, params, x)).max() > 0.01


@pytest.mark.parametrize("name", ["self", "self, merged", "linear", "random", "self, both learned"])
def test_a_head_without_its_output_is_a_removed_head(name):
    layer, x, params = _setting(name)
    planted = jax.tree.map(lambda leaf: leaf, params)
    planted["out"]["kernel"] = params["out"]["kernel"].at[1].set(0)
    removed = _without(layer, params, x, {"heads": jnp.array([1.0, 0.0])})
    np.testing.assert_allclose(removed, apply(layer, planted, x), rtol=1e-4, atol=1e-4)
    assert np.abs(removed - apply(layer, params, x)).max() > 0.01


def test_a_slot_of_induced_attention_without_its_value_is_a_removed_slot():
    """The column of the map that leads back from a slot is zero: written out from the stored map and the values."""
    layer = InducedAttention(num_heads=2, head_dim=8, memory_size=3)
    x = tokens(count=_TOKENS)
    params = random_params(layer, x)
    kept = {"slots": jnp.ones((2, 3)).at[:, 1].set(0)}
    own = jax.tree.map(np.asarray, params)
    out, state = layer.apply({"params": params}, x, mutable=["intermediates"])
    maps = state["intermediates"]
    summary = np.einsum("BHSN,BNHK->BSHK", maps["summarize_map"][0], _affine(x, own["summarize_value"]))
    summary = np.einsum("BSHK,HKD->BSD", summary, own["summarize_out"]["kernel"]) + own["summarize_out"]["bias"]
    map_BHNS = np.array(maps["distribute_map"][0])

    def back(map_BHNS):
        mixed = np.einsum("BHNS,BSHK->BNHK", map_BHNS, _affine(summary, own["distribute_value"]))
        out = own["distribute_out"]
        return np.einsum("BNHK,HKD->BND", mixed, out["kernel"]) + out["bias"]

    np.testing.assert_allclose(back(map_BHNS), out, rtol=1e-4, atol=1e-4)
    map_BHNS[..., 1] = 0
    np.testing.assert_allclose(back(map_BHNS), _without(layer, params, x, kept), rtol=1e-4, atol=1e-4)


def _affine(x, layer):
    return np.einsum("BND,DHK->BNHK", x, layer["kernel"]) + layer["bias"]


def test_a_mask_of_another_shape_is_refused():
    layer, x, params = _setting("self")
    with pytest.raises(ValueError, match=r"the mask of heads has shape \(3,\); accepted: \(2,\)"):
        layer.apply({"params": params, COLLECTION: {"heads": jnp.ones(3)}}, x)


def test_a_block_whose_attention_is_removed_keeps_its_residual():
    """Every block without its attention is the network of the arm none, with the same other parameters."""
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    sizes = {"num_classes": 3, "patch_size": 4, "dim": 16, "depth": 2, "mlp_dim": 8}
    model, alone = VisionTransformer(**sizes), VisionTransformer(**sizes, attention=None)
    params = jax.jit(model.init)(jax.random.key(1), images)["params"]
    kept = masks(model, params, images)
    assert {block: set(own) for block, own in kept.items()} == dict.fromkeys(
        ("block_0", "block_1"), {"attended", "attention"}
    )
    for block in kept:
        kept[block]["attended"] = jnp.zeros(())
    others = {
        name: {part: leaf for part, leaf in own.items() if not part.startswith("attention")}
        if name.startswith("block_")
        else own
        for name, own in params.items()
    }
    out = jax.jit(model.apply)({"params": params, COLLECTION: kept}, images)
    np.testing.assert_allclose(out, jax.jit(alone.apply)({"params": others}, images), rtol=1e-5, atol=1e-6)
    assert masks(alone, others, images) == {}
