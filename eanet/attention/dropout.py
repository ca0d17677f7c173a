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
def per_example_dropout(places: jax.Array) -> Iterator[None]:
    """Make the dropout of a network traced in this context depend on each example's place in the batch alone.

    places is int32 [batch]. The same values are then dropped if a batch is cut into parts or sharded over devices.
    This is a context manager because Flax gives a module one key for the whole batch, and places is not an argument
    that every module, including users' own, should have to take.
    """
    token = _places.set(places)
    try:
        yield
    finally:
        _places.reset(token)


def quantized_rate(rate: float) -> tuple[int, int]:
    """Return how many of how many equally likely draws drop a value at this rate, e.g. (51, 256) for 0.2."""
    for bits in (8, 16):
        of = 2**bits
        dropped = min(max(round(rate * of), 1), of - 1)
        if abs(dropped / of - rate) <= _CLOSE * min(rate, 1 - rate):
            break
    return dropped, of


def random_bits(key: jax.Array, shape: tuple[int, ...], bits: int) -> jax.Array:
    """Draw unsigned integers of 8 or 16 bits, several from each word of a Threefry hash of consecutive counters.

    jax.random.bits combines the two words of each hash into one, so that a draw does not depend on the number of draws.
    Here both words are used, because shape is always that of a whole example or tensor.
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
        # Scale last: XLA can fold the scalar into the product that usually follows; before the where, it cannot.
        return jnp.where(keep, x, jnp.zeros((), x.dtype)) * jnp.asarray(scale, x.dtype)

    def draw(self, shape: tuple[int, ...]) -> tuple[jax.Array, float]:
        """Return which values of an array of `shape` are kept, as booleans, and what these are multiplied by.

        The first axis is the batch's.
        """
        dropped, of = quantized_rate(self.rate)
        key, bits, places = self.make_rng("dropout"), of.bit_length() - 1, _places.get()
        if places is None:
            draws = random_bits(key, shape, bits)
        else:
            keys = jax.vmap(functools.partial(jax.random.fold_in, key))(places)
            draws = jax.vmap(lambda key: random_bits(key, shape[1:], bits))(keys)
        return draws >= dropped, of / (of - dropped)
