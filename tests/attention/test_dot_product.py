"""The core of self-attention against its plain formula, differentiated by JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.attention.dot_product import attend, attention_map

_SCALE = 1 / 0.7


def _plain(query_GRK, key_GMK, value_GMV, keep_GRM=None, scale=1.0):
    map_GRM = jax.nn.softmax(jnp.einsum("GRK,GMK->GRM", query_GRK, key_GMK), axis=-1)
    map_GRM = map_GRM if keep_GRM is None else jnp.where(keep_GRM, map_GRM, 0) * scale
    return jnp.einsum("GRM,GMV->GRV", map_GRM, value_GMV), jnp.sum(map_GRM, axis=-1)


def _arguments(dropout):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((3, 7, 4), (3, 5, 4), (3, 5, 6))
    arrays = [2 * jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=False)]
    return arrays, (jax.random.bernoulli(keys[3], 0.7, (3, 7, 5)), _SCALE) if dropout else ()


@pytest.mark.parametrize("dropout", [False, True])
def test_value_and_gradient(dropout):
    """Of the rows' sums too, on which the value's bias depends."""
    arrays, rest = _arguments(dropout)

    def loss(function, *arrays):
        out_GRV, rows_GR = function(*arrays, *rest)
        return jnp.sum(jnp.sin(out_GRV)) + jnp.sum(jnp.cos(2 * rows_GR))

    for ours, theirs in zip(attend(*arrays, *rest), _plain(*arrays, *rest), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    gradients = [jax.jit(jax.grad(functools.partial(loss, f), argnums=(0, 1, 2)))(*arrays) for f in (attend, _plain)]
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
        assert np.abs(theirs).max() > 0.1


def test_large_logits_stay_finite():
    arrays, _ = _arguments(False)
    arrays[0] = arrays[0] * 1e4
    out, _ = attend(*arrays)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out, _plain(*arrays)[0], atol=1e-4)


def test_narrow_types_are_summed_in_float32():
    arrays, rest = _arguments(True)
    narrow = [x.astype(jnp.bfloat16) for x in arrays]
    out, rows = attend(*narrow, *rest)
    assert out.dtype == jnp.bfloat16 and rows.dtype == jnp.float32
    np.testing.assert_allclose(out.astype(jnp.float32), _plain(*arrays, *rest)[0], atol=0.1)
    gradient = jax.grad(lambda *x: jnp.sum(attend(*x, *rest)[0].astype(jnp.float32)), argnums=(0, 1, 2))(*narrow)
    assert {x.dtype for x in gradient} == {jnp.dtype("bfloat16")}


def test_the_map_is_the_softmax_over_the_keys():
    arrays, _ = _arguments(False)
    map_GRM = attention_map(*arrays[:2])
    np.testing.assert_allclose(jnp.einsum("GRM,GMV->GRV", map_GRM, arrays[2]), attend(*arrays)[0], atol=1e-5)
