"""Dropout: rate, mean, independence, and who draws what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eanet.attention.dropout import Dropout, per_example_dropout, quantized_rate, random_bits


def _dropped(rate, shape=(64, 1000), seed=0, dtype=jnp.float32):
    x = jnp.ones(shape, dtype)
    return Dropout(rate).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(seed)})


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.5, 0.9])
def test_rate_and_mean(rate):
    """Four standard errors of 640,000 draws; the scale makes the mean 1 whatever the nearest rate is."""
    y = np.asarray(_dropped(rate, (640, 1000)))
    of = 256
    nearest = round(rate * of) / of
    error = 4 * (nearest * (1 - nearest) / y.size) ** 0.5
    assert np.mean(y == 0) == pytest.approx(nearest, abs=error)
    kept = y[y != 0]
    assert np.allclose(kept, 1 / (1 - nearest), rtol=1e-6) and nearest == pytest.approx(rate, rel=0.02)
    assert y.mean() == pytest.approx(1, abs=error / (1 - nearest))


@given(st.floats(1e-5, 1 - 1e-5))
def test_every_rate_is_met_closely(rate):
    dropped, of = quantized_rate(rate)
    assert 0 < dropped < of <= 65536
    assert abs(dropped / of - rate) <= max(0.02 * min(rate, 1 - rate), 1 / 65536)


def test_the_documents_rate_takes_eight_bits_and_a_small_one_sixteen():
    assert quantized_rate(0.2) == (51, 256)
    assert quantized_rate(0.001) == (66, 65536) and quantized_rate(0.999) == (65470, 65536)
    y = np.asarray(_dropped(0.001, (640, 1000)))
    assert np.mean(y == 0) == pytest.approx(66 / 65536, abs=4 * (0.001 / y.size) ** 0.5)


def test_no_dropout_is_the_identity_and_draws_nothing():
    x = jnp.arange(6.0).reshape(2, 3)
    assert Dropout(0.2).apply({}, x, deterministic=True) is x
    assert Dropout(0.0).apply({}, x, deterministic=False) is x


@pytest.mark.parametrize(("bits", "dtype"), [(8, jnp.uint8), (16, jnp.uint16)])
def test_draws_are_uniform_and_do_not_repeat_within_a_word(bits, dtype):
    draws = random_bits(jax.random.key(0), (7, 11, 1301), bits)
    assert draws.shape == (7, 11, 1301) and draws.dtype == dtype
    values = np.asarray(draws).reshape(-1) >> (bits - 8)
    counts = np.bincount(values, minlength=256)
    assert (abs(counts - values.size / 256) < 6 * (values.size / 256) ** 0.5).all()
    neighbours = np.corrcoef(values[:-1].astype(float), values[1:].astype(float))[0, 1]
    assert abs(neighbours) < 5 / values.size**0.5


def test_draws_follow_the_key_and_keep_the_dtype():
    assert (_dropped(0.5) == _dropped(0.5)).all() and (_dropped(0.5) != _dropped(0.5, seed=1)).any()
    assert _dropped(0.2, dtype=jnp.bfloat16).dtype == jnp.bfloat16


def test_the_gradient_is_the_mask():
    x = jax.random.normal(jax.random.key(1), (50,))

    def total(x):
        return Dropout(0.5).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(0)}).sum()

    assert (jax.grad(total)(x) == _dropped(0.5, (50,))).all()


def test_draws_by_place_do_not_depend_on_how_a_batch_is_cut():
    x = jnp.ones((6, 4, 50))

    def dropped(x, places):
        with per_example_dropout(places):
            return Dropout(0.5).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(0)})

    whole = dropped(x, jnp.arange(6))
    part = dropped(x[:2], jnp.array([4, 1]))
    assert (part == whole[jnp.array([4, 1])]).all()
    assert (whole[0] != whole[1]).any(), "two places have the same mask"
    assert (_dropped(0.5, (6, 4, 50)) != whole).any(), "the context has ended, and draws are the batch's again"


def test_both_words_of_a_hash_are_used_and_differ():
    """Half the hashes of jax.random.bits, which joins their two words to one."""
    draws = np.asarray(random_bits(jax.random.key(0), (2, 4096), 16))
    assert (draws[0] != draws[1]).mean() > 0.99
    hashes = str(jax.make_jaxpr(lambda key: random_bits(key, (4096,), 8))(jax.random.key(0)))
    assert "u32[512]" in hashes and "random_bits" not in hashes


@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
def test_other_generators_serve_too(generator):
    y = Dropout(0.5).apply(
        {}, jnp.ones((100, 100)), deterministic=False, rngs={"dropout": jax.random.key(0, impl=generator)}
    )
    assert 0.45 < float(np.mean(np.asarray(y) == 0)) < 0.55
