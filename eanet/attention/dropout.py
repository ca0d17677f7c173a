"""Dropout from 8-bit draws: most of what dropout costs is random bits, and 32 of them for a coin are too many."""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32

_CLOSE = 0.02  # relative error of the rate, and of its complement, that 8 bits may make; else there are 16

_places: contextvars.ContextVar[jax.Array | None] = contextvars.ContextVar("places", default=None)


@contextlib.contextmanager
def drawing_by_place(places: jax.Array) -> Iterator[None]:
    """While a network is traced in it, let each example's draws follow from its place in the batch alone.

    places is int32 [batch]. So a batch may be cut into parts, or spread over devices, and drops the same values. It
    is a context because Flax hands a module one key for the whole batch, and the modules' own signature is everybody's.
    """
    token = _places.set(places)
    try:
        yield
    finally:
        _places.reset(token)


def levels(rate: float) -> tuple[int, int]:
    """Return a rate as counted draws: how many of how many equally likely ones drop a value, 51 of 256 for 0.2."""
    for bits in (8, 16):
        of = 2**bits
        dropped = min(max(round(rate * of), 1), of - 1)
        if abs(dropped / of - rate) <= _CLOSE * min(rate, 1 - rate):
            break
    return dropped, of


def random_bits(key: jax.Array, shape: tuple[int, ...], bits: int) -> jax.Array:
    """Draw unsigned integers of 8 or 16 bits, several from each word of the Threefry hash of its place.

    jax.random.bits joins the two words that a hash gives to one, so that no two draws depend on how many there are;
    here both are used, and a shape always is an example's or a tensor's whole.
    """
    count, each = math.prod(shape), 32 // bits
    number = 2 * -(-count // (2 * each))
    data = jax.random.key_data(key)
    if data.shape == (2,):
        words = threefry_2x32(data, jnp.arange(number, dtype=jnp.uint32))
    else:  # a key of another generator, in somebody's own model
        words = jax.random.bits(key, (number,), jnp.uint32)
    narrow = jax.lax.bitcast_convert_type(words, jnp.uint8 if bits == 8 else jnp.uint16)
    return narrow.reshape(-1)[:count].reshape(shape)


class Dropout(nn.Module):
    """Zero each value with a probability near `rate` and scale the others by what keeps the mean exactly.

    `module(x, deterministic=...)` gives an array like `x`. The probability is the nearest multiple of 1/256, or of
    1/65536 if that is more than 2% off. Draws come from the stream `dropout`.
    """

    rate: float  # from 0 to below 1

    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        if deterministic or self.rate == 0:
            return x
        keep, scale = self.draw(x.shape)
        # Scaled last, a scalar joins the product that mostly follows; before the choice XLA stores it as a tensor.
        return jnp.where(keep, x, jnp.zeros((), x.dtype)) * jnp.asarray(scale, x.dtype)

    def draw(self, shape: tuple[int, ...]) -> tuple[jax.Array, float]:
        """Return which values of an array of `shape` are kept, as booleans, and what these are multiplied by.

        The first axis is the batch's.
        """
        dropped, of = levels(self.rate)
        key, bits, places = self.make_rng("dropout"), of.bit_length() - 1, _places.get()
        if places is None:
            draws = random_bits(key, shape, bits)
        else:
            keys = jax.vmap(functools.partial(jax.random.fold_in, key))(places)
            draws = jax.vmap(lambda key: random_bits(key, shape[1:], bits))(keys)
        return draws >= dropped, of / (of - dropped)
