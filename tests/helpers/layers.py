"""A layer alone: its input, random parameters, and what it gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.attention.dropout import Dropout

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


def fix_dropout(monkeypatch, rate=0.4):
    """Let the shape alone decide what dropout draws. Returns the function from a shape to its factors, in NumPy."""

    def kept(shape):
        return np.random.default_rng(shape).random(shape) >= rate

    monkeypatch.setattr(Dropout, "draw", lambda self, shape: (jnp.asarray(kept(shape)), 1 / (1 - rate)))
    return lambda *shape: kept(shape) / (1 - rate)


def check_gradient(module, loop, x, rel=1e-3):
    """Compare the gradient with central differences of a loop in float64, along random directions of its arguments."""
    rng = np.random.default_rng(3)
    params, weights = random_params(module, x), rng.normal(size=x.shape)
    value = jax.jit(lambda params, x: jnp.sum(module.apply({"params": params}, x) * weights))
    gradient = jax.jit(jax.grad(value, argnums=(0, 1)))(params, x)
    point = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, x))
    for _ in range(4):
        way = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), point)
        ends = [jax.tree.map(lambda p, d, by=by: p + by * d, point, way) for by in (1e-5, -1e-5)]
        difference = np.subtract(*(np.sum(loop(*end) * weights) for end in ends)) / 2e-5
        along = sum(np.sum(a * b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True))
        assert abs(difference) > 0.1 and along == pytest.approx(difference, rel=rel)
    return gradient


def loop_attend(queries, keys, values, scale, dropout=None):
    """Attend from each query to all keys by scaled dot products, one row at a time; dropout multiplies the map."""
    out = np.zeros((len(queries), values.shape[1]))
    for n, query in enumerate(queries):
        scores = np.exp([scale * (query @ key) for key in keys])
        row = scores / scores.sum() * (1 if dropout is None else dropout[n])
        out[n] = sum(weight * value for weight, value in zip(row, values, strict=True))
    return out


def as_numpy(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def intermediate_shapes(module, params, x):
    jaxpr = jax.make_jaxpr(lambda p, y: module.apply({"params": p}, y))(params, x)
    return {variable.aval.shape for equation in jaxpr.eqns for variable in equation.outvars}


def shapes(module, x):
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    assert set(params) == {"params"}
    return {name: {part: leaf.shape for part, leaf in sub.items()} for name, sub in params["params"].items()}


def limit(kernel, expected):
    largest, deviation = np.abs(kernel).max(), np.std(kernel)
    assert largest <= expected
    assert largest > 0.97 * expected
    assert deviation == pytest.approx(expected / np.sqrt(3), rel=0.1)
