"""AdamW as the document uses it, with the schedule, clipping and decay mask of `config.optimizer`."""

from typing import Any

import jax
import ml_collections
import optax

# Keras's; optax's own default is 1e-8.
ADAM_EPSILON = 1e-7

SCHEDULES = ("constant", "cosine")
DECAY_MASKS = ("all", "kernels")


def make_schedule(config: ml_collections.ConfigDict, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Give the learning rate of each step, counted from 0; a warm-up's first step is not 0."""
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(config.learning_rate, max(1, total_steps - warmup_steps))
    else:
        main = optax.constant_schedule(config.learning_rate)
    if not warmup_steps:
        return main
    warmup = optax.linear_schedule(config.learning_rate / warmup_steps, config.learning_rate, warmup_steps - 1)
    return optax.join_schedules([warmup, main], [warmup_steps])


def decay_mask(params: Any) -> Any:
    """Mark the kernels: what a weight decay that spares biases, layer norms and embeddings touches."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(config: ml_collections.ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Build AdamW (decoupled decay, multiplied by the learning rate) behind optional clipping."""
    adamw = optax.adamw(
        schedule,
        eps=ADAM_EPSILON,
        weight_decay=config.weight_decay,
        mask=decay_mask if config.decay_mask == "kernels" else None,
    )
    if not config.clip_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
