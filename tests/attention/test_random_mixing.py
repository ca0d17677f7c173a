"""Random mixing against a plain loop, and where its maps come from."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.attention.random_mixing import RandomMixing, random_maps
from eanet.model import footprint
from helpers.layers import (
    TOKENS,
    apply,
    as_numpy,
    check_gradient,
    dropout_key,
    fix_dropout,
    random_params,
    shapes,
    tokens,
)

_ALONE = (0, 0)  # seed and place of a module that is no part of a network


def loop_random(params, x, dropout=None):
    """Mix the values of each head by its map, one image and one token at a time; dropout [B, H, N, M] multiplies it."""
    p, x = as_numpy(params), np.asarray(x, np.float64)
    heads = p["out"]["kernel"].shape[0]
    maps = np.asarray(random_maps(_ALONE, heads, x.shape[1]), np.float64)
    maps = maps[None].repeat(len(x), axis=0) * (1 if dropout is None else dropout)
    out = np.zeros_like(x) + p["out"]["bias"]
    for b in range(len(x)):
        for h in range(heads):
            values = x[b] @ p["value"]["kernel"][:, h] + p["value"]["bias"][h]
            for n in range(x.shape[1]):
                out[b, n] += sum(maps[b, h, n, m] * values[m] for m in range(x.shape[1])) @ p["out"]["kernel"][h]
    return out


@pytest.mark.parametrize("num_heads, head_dim", [(1, 5), (2, 8), (4, 0)])
def test_random_mixing_equals_a_plain_loop(num_heads, head_dim):
    module, x = RandomMixing(num_heads, head_dim), tokens()
    params = random_params(module, x)
    np.testing.assert_allclose(apply(module, params, x), loop_random(params, x), atol=2e-5, rtol=2e-5)


def test_the_gradient_is_that_of_a_plain_loop():
    check_gradient(RandomMixing(2, 3), loop_random, tokens(channels=8))


def test_dropout_multiplies_the_map_of_each_image(monkeypatch):
    factors = fix_dropout(monkeypatch)
    module, x = RandomMixing(2, 5, attention_dropout=0.4), tokens()
    params = random_params(module, x)
    out = apply(module, params, x, deterministic=False, rngs=dropout_key(0))
    np.testing.assert_allclose(out, loop_random(params, x, factors(2, 2, TOKENS, TOKENS)), atol=2e-5, rtol=2e-5)


def test_maps_are_softmaxes_of_uniform_numbers():
    """Of rows of 400: the largest weight is e times the smallest, nearly."""
    maps = random_maps((0, 1), 3, 400)
    assert maps.shape == (3, 400, 400) and maps.dtype == np.float32
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-5)
    ratio = maps.max(-1) / maps.min(-1)
    assert ratio.max() <= np.e * 1.001 and ratio.mean() > 0.98 * np.e
    assert np.log(maps).std(axis=-1).mean() == pytest.approx(1 / np.sqrt(12), rel=0.01)  # of U(0, 1)
    assert abs(np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1]) < 0.02


def test_each_block_has_maps_of_its_own_and_they_follow_from_the_seed_alone():
    class Two(nn.Module):
        mixing_seed: int = 0

        @nn.compact
        def __call__(self, x, deterministic=True):
            return tuple(RandomMixing(2, 4, self.mixing_seed, name=name)(x) for name in ("first", "second"))

    x = tokens()
    params = random_params(Two(), x)
    params["second"] = params["first"]
    first, second = apply(Two(), params, x)
    assert np.abs(first - second).max() > 0.01
    again, _ = apply(Two(), params, x)
    np.testing.assert_array_equal(first, again)
    other, _ = apply(Two(mixing_seed=1), params, x)
    assert np.abs(first - other).max() > 0.01


def test_the_maps_are_no_parameters():
    assert shapes(RandomMixing(4, 64), jnp.zeros((1, 4, 64))) == {
        "value": {"kernel": (64, 4, 64), "bias": (4, 64)},
        "out": {"kernel": (4, 64, 64), "bias": (64,)},
    }


def test_dropout_of_the_map_keeps_its_mean():
    """Over many draws, and those of an image apart from another's."""
    module, x = RandomMixing(1, 4, attention_dropout=0.5), jnp.ones((2, TOKENS, 8))
    params = random_params(module, x)

    def drawn(seed):
        return apply(module, params, x, deterministic=False, rngs=dropout_key(seed))

    outputs = np.stack([drawn(seed) for seed in range(200)])
    assert np.abs(outputs[:, 0] - outputs[:, 1]).max() > 0.1
    spread = outputs.std(axis=0).max()
    np.testing.assert_allclose(outputs.mean(axis=0), apply(module, params, x), atol=5 * spread / np.sqrt(200))
    assert spread > 0.1


def test_the_program_holds_the_maps_as_constants():
    """So nothing is drawn in a step, and no gradient is taken of them."""
    module, x = RandomMixing(2, 4), tokens()
    params = random_params(module, x)
    jaxpr = jax.make_jaxpr(lambda p: module.apply({"params": p}, x))(params)
    assert (2, TOKENS, TOKENS) in {np.shape(constant) for constant in jaxpr.consts}
    assert "threefry" not in str(jaxpr)


def test_multiply_adds_are_two_projections_and_the_maps():
    module, x = RandomMixing(4, 32), jnp.zeros((1, 9, 64))
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    counted = footprint.count_macs(jax.make_jaxpr(module.apply)(params, x).jaxpr)
    assert counted == 2 * 9 * 64 * 4 * 32 + 4 * 9 * 9 * 32
