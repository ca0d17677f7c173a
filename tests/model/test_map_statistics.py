"""Numbers of attention maps and memories, against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from eanet.model import map_statistics
from eanet.model.footprint import parameter_shapes
from eanet.model.vision_transformer import build_model

_EVEN = np.full((1, 1, 4, 2), 0.5)


def _model(**fields):
    config = default.get_config().model
    config.update({"dim": 16, "depth": 2, "mlp_dim": 8, "patch_size": 8} | fields)
    model = build_model(config, 3)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    params = jax.jit(model.init)(jax.random.key(1), images)["params"]
    return model, params, images


def test_an_even_map_has_entropy_usage_and_evenness_one():
    for name, value in map_statistics.describe(jnp.asarray(_EVEN), "NHS").items():
        np.testing.assert_allclose(value, 1, rtol=1e-5, err_msg=name)


def test_a_map_that_chooses_one_slot_has_entropy_zero_and_one_slot_has_all_the_usage():
    map_BHNS = np.zeros((1, 1, 4, 2))
    map_BHNS[..., 1] = 1
    found = map_statistics.describe(jnp.asarray(map_BHNS), "NHS")
    np.testing.assert_allclose(found["entropy"], [[0]], atol=1e-5)
    np.testing.assert_allclose(found["usage"], [[[0, 2]]], atol=1e-5)
    np.testing.assert_allclose(found["evenness"], [[[0, 1]]], atol=1e-5)


def test_the_entropy_of_weights_of_one_and_three():
    map_BHNS = np.tile([0.25, 0.75], (1, 1, 4, 1))
    found = map_statistics.describe(jnp.asarray(map_BHNS), "NHS")
    expected = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75)) / np.log(2)
    np.testing.assert_allclose(found["entropy"], [[expected]], rtol=1e-5)
    np.testing.assert_allclose(found["usage"], [[[0.5, 1.5]]], rtol=1e-5)
    scaled = map_statistics.describe(jnp.asarray(-3 * map_BHNS), "NHS")  # as TokenFormer's norm may have it
    np.testing.assert_allclose(scaled["entropy"], found["entropy"], rtol=1e-5)


def test_evenness_is_of_the_map_before_the_norm_over_the_slots():
    """Slot 0 is flat over the tokens, slot 1 is not; the l1 norm makes both uneven."""
    over_tokens = np.array([[0.25, 0.7], [0.25, 0.1], [0.25, 0.1], [0.25, 0.1]])
    normed = over_tokens / over_tokens.sum(1, keepdims=True)
    maps = {"block_0/m": normed[None, None], "block_0/m_over_tokens": over_tokens[None, None]}
    found = map_statistics.describe_all(jax.tree.map(jnp.asarray, maps), {"m": "NHS"})
    assert set(found) == {"block_0/m"}
    assert found["block_0/m"]["evenness"][0, 0, 0] == pytest.approx(1) and found["block_0/m"]["evenness"][0, 0, 1] < 0.8
    assert map_statistics.describe(jnp.asarray(maps["block_0/m"]), "NHS")["evenness"][0, 0, 0] < 0.98


def test_maps_between_tokens_have_no_usage():
    assert set(map_statistics.describe(jnp.ones((1, 2, 4, 4)) / 4, "HNM")) == {"entropy"}


@pytest.mark.parametrize(("axes", "order"), [("NHS", (0, 2, 1, 3)), ("HNM", (0, 1, 2, 3)), ("HSN", (0, 1, 3, 2))])
def test_maps_come_with_heads_tokens_and_the_rest_in_this_order(axes, order):
    stored = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(map_statistics.by_heads(jnp.asarray(stored), axes), stored.transpose(order))


@pytest.mark.parametrize(
    ("matrix", "rank"),
    [
        (np.eye(5), 5),
        (np.outer([1, 2, 3], [1, 1]), 1),
        (np.diag([3.0, 1.0]), np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))),
        (np.stack([np.eye(4), np.outer(np.ones(4), np.ones(4))]), 2.5),
        (np.zeros((3, 3)), 1),
    ],
    ids=["identity", "outer product", "3 and 1", "mean over heads", "zeros"],
)
def test_effective_rank(matrix, rank):
    assert float(map_statistics.effective_rank(jnp.asarray(matrix))) == pytest.approx(rank, rel=1e-3)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, {"block_0/memory_key", "block_0/memory_value", "block_1/memory_key", "block_1/memory_value"}),
        ({"tie_memories": True}, {"block_0/memory_key", "block_1/memory_key"}),
        ({"share_memories": True}, {"shared/memory_key", "shared/memory_value"}),
        ({"attention": "induced"}, {"block_0/inducing_points", "block_1/inducing_points"}),
        ({"attention": "self", "key_source": "learned"}, {"block_0/learned_key", "block_1/learned_key"}),
        ({"attention": "self"}, set()),
        ({"attention": "none"}, set()),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_memories_are_found_by_name(fields, names):
    config = default.get_config().model
    config.update({"depth": 2} | fields)
    model = build_model(config, 3)
    found = map_statistics.memories(model, parameter_shapes(model, (32, 32, 3)))
    assert set(found) == names and all(x.ndim >= 2 for x in found.values())


@pytest.mark.parametrize(
    ("attention", "names"),
    [
        ("external", {"entropy", "smallest_usage", "flat_slots", "rank_memory_key", "rank_memory_value"}),
        ("self", {"entropy"}),
        ("random", {"entropy"}),
        (
            "induced",
            {"rank_inducing_points"}
            | {f"summarize_{name}" for name in ("entropy", "smallest_usage", "flat_slots")}
            | {f"distribute_{name}" for name in ("entropy", "smallest_usage", "flat_slots")},
        ),
        ("linear", set()),
        ("conv", set()),
        ("none", set()),
    ],
)
def test_the_summary_of_a_model(attention, names):
    model, params, images = _model(attention=attention)
    found = jax.jit(lambda p, x: map_statistics.summarize(model, p, x))(params, images)
    assert set(found) == {f"block_{i}/{name}" for i in range(2) for name in names}
    assert all(np.isfinite(x) and x.shape == () for x in found.values())


def test_a_planted_flat_slot_is_counted():
    """A column of M_k and its bias that are zero give the slot the same logit at every token."""
    model, params, images = _model()
    before = map_statistics.summarize(model, params, images)
    key = params["block_0"]["attention"]["memory_key"]
    key["kernel"] = key["kernel"].at[:, 2].set(0)
    key["bias"] = key["bias"].at[2].set(0)
    after = map_statistics.summarize(model, params, images)
    assert float(after["block_0/flat_slots"]) == 1 + float(before["block_0/flat_slots"]) == 1
    assert after["block_1/flat_slots"] == before["block_1/flat_slots"]
