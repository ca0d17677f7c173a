"""AdamW as in the Keras example, with the schedule and the clipping of `config.optimizer`."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

# Keras's; optax's own default is 1e-8.
ADAM_EPSILON = 1e-7

SCHEDULES = ("constant", "cosine")
VARIANTS = ("optax", "keras")


def make_schedule(config: ml_collections.ConfigDict, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Return the learning rate of each step, counted from 0; a warm-up's first step is not 0."""
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(config.learning_rate, max(1, total_steps - warmup_steps))
    else:
        main = optax.constant_schedule(config.learning_rate)
    if not warmup_steps:
        return main
    warmup = optax.linear_schedule(config.learning_rate / warmup_steps, config.learning_rate, warmup_steps - 1)
    return optax.join_schedules([warmup, main], [warmup_steps])


def scale_by_keras_adam(b1: float = 0.9, b2: float = 0.999) -> optax.GradientTransformation:
    """Scale by Adam as Keras does: epsilon is added to the root of v before the bias correction, not after.

    In optax's terms epsilon is divided by sqrt(1 - b2^t), 32 times as large at the first step. The state is
    optax's own, so that a checkpoint's structure does not depend on the variant.
    """

    def update(grads: Any, state: optax.ScaleByAdamState, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        mu = jax.tree.map(lambda m, g: m + (1 - b1) * (g - m), state.mu, grads)
        nu = jax.tree.map(lambda v, g: v + (1 - b2) * (jnp.square(g) - v), state.nu, grads)
        count = optax.safe_increment(state.count)
        correction = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + ADAM_EPSILON), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2).init, update)


def make_optimizer(config: ml_collections.ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Build AdamW (decoupled decay, multiplied by the learning rate) behind optional clipping."""
    adam = scale_by_keras_adam() if config.variant == "keras" else optax.scale_by_adam(eps=ADAM_EPSILON)
    decay = optax.add_decayed_weights(config.weight_decay)
    adamw = optax.chain(adam, decay, optax.scale_by_learning_rate(schedule))
    if not config.clip_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
