"""Schedules at every step, and AdamW against its own equations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from eanet.training.optimizer import make_optimizer, make_schedule

RATE, STEPS, PER_EPOCH = 0.5, 60, 10


def settings(**fields):
    optimizer = default.get_config().optimizer
    optimizer.update({"learning_rate": RATE} | fields)
    return optimizer


def rates(**fields):
    schedule = make_schedule(settings(**fields), STEPS, PER_EPOCH)
    return np.array([schedule(jnp.asarray(step)) for step in range(STEPS + 1)])


def test_constant_is_the_rate_at_every_step():
    np.testing.assert_allclose(rates(), np.full(STEPS + 1, RATE))


def test_cosine_falls_from_the_rate_to_zero_at_the_end():
    values = rates(schedule="cosine")
    expected = RATE * (1 + np.cos(np.pi * np.arange(STEPS + 1) / STEPS)) / 2
    assert np.abs(values[:-1] - rates()[:-1]).max() > 0.4
    np.testing.assert_allclose(values, expected, atol=1e-7)
    assert values[-1] == 0 and values[-2] > 0


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("epochs, steps", [(1.0, 10), (0.1, 1), (0.25, 2), (2, 20), (2.5, 25)])
def test_warm_up_is_linear_starts_above_zero_and_meets_the_rest(schedule, epochs, steps):
    values = rates(schedule=schedule, warmup_epochs=epochs)
    np.testing.assert_allclose(values[:steps], RATE * np.arange(1, steps + 1) / steps, rtol=1e-6)
    assert values[0] > 0
    if schedule == "constant":
        np.testing.assert_allclose(values[steps:], RATE)
    else:
        along = np.arange(STEPS + 1 - steps) / (STEPS - steps)
        np.testing.assert_allclose(values[steps:], RATE * (1 + np.cos(np.pi * along)) / 2, atol=1e-7)
        assert values[-1] == 0
    # No jump: nowhere a larger step than the warm-up's own or the steepest of the cosine.
    assert np.abs(np.diff(values)).max() <= max(RATE / steps, RATE * np.pi / 2 / (STEPS - steps)) + 1e-6


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_over_the_whole_run_ends_at_the_rate(schedule):
    values = rates(schedule=schedule, warmup_epochs=STEPS / PER_EPOCH)[:STEPS]
    np.testing.assert_allclose(values, RATE * np.arange(1, STEPS + 1) / STEPS, rtol=1e-6)


def parameters():
    rng = np.random.default_rng(0)
    tree = {"layer": {"kernel": (3, 2), "bias": (2,)}, "norm": {"scale": (2,)}, "position_embedding": (4, 2)}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), tree, is_leaf=lambda x: isinstance(x, tuple)
    )


def update(params, gradients, **fields):
    optimizer = make_optimizer(settings(**fields), optax.constant_schedule(RATE))
    return optimizer.update(gradients, optimizer.init(params), params)[0]


def test_decay_is_rate_times_decay_times_parameter():
    """Of every parameter, biases and layer norms included, as in the Keras example."""
    params = parameters()
    updates = update(params, jax.tree.map(jnp.zeros_like, params), weight_decay=0.25)
    jax.tree.map(lambda u, p: np.testing.assert_allclose(u, -RATE * 0.25 * p, rtol=1e-6), updates, params)


def test_decay_is_decoupled_from_the_gradient_step():
    params = parameters()
    gradients = jax.tree.map(lambda leaf: jnp.cos(3 * leaf), params)
    without, with_decay = (update(params, gradients, weight_decay=decay) for decay in (0.0, 0.25))
    jax.tree.map(
        lambda a, b, p: np.testing.assert_allclose(b - a, -RATE * 0.25 * p, atol=1e-6), without, with_decay, params
    )


def test_adam_equals_its_equations_over_several_steps():
    config = settings(weight_decay=0.1)
    optimizer = make_optimizer(config, make_schedule(settings(schedule="cosine"), 5, 5))
    params = jnp.asarray([1.0, -2.0, 0.5])
    state, m, v, expected = optimizer.init(params), np.zeros(3), np.zeros(3), np.asarray(params, np.float64)
    for step in range(5):
        # The middle gradient is of the size of epsilon, so that 1e-7 and optax's own 1e-8 differ.
        gradient = np.array([0.3, 1e-7, -2.0]) * (1 + step)
        updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        direction = (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-7)
        rate = RATE * (1 + np.cos(np.pi * step / 5)) / 2
        expected = expected - rate * (direction + 0.1 * expected)
    np.testing.assert_allclose(params, expected, rtol=1e-4)


@pytest.mark.parametrize("size, clipped", [(100.0, True), (0.001, False)])
def test_clipping_scales_only_a_gradient_longer_than_the_norm(size, clipped):
    params = jnp.zeros(2)
    gradients = [jnp.asarray([3.0, 4.0]) * size, jnp.asarray([0.003, -0.004])]

    def second_update(clip_norm):
        optimizer = make_optimizer(settings(clip_norm=clip_norm, weight_decay=0.0), optax.constant_schedule(RATE))
        state = optimizer.init(params)
        for gradient in gradients:  # Adam's first step hides the scale of a gradient, its second shows it
            updates, state = optimizer.update(gradient, state, params)
        return updates

    free, bound = second_update(0.0), second_update(1.0)
    norm = 5.0 * size
    gradients[0] = gradients[0] * min(1.0, 1.0 / norm)
    np.testing.assert_allclose(bound, second_update(0.0), rtol=1e-5)
    assert (np.abs(np.asarray(free - bound)).max() > 1e-3) == clipped
