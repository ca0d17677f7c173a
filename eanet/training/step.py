"""The compiled functions: training state, one step, many steps in a call, and evaluation. Pure, no I/O.

The path of a batch: uint8 images on the device → the epoch's order → augmentation → model → loss over the real
examples → gradients → optimizer. All randomness is a function of (seed, purpose, step): nothing is carried
from step to step, so a run that resumes continues with the same bits.
"""

import enum
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from eanet.attention.dropout import per_example_dropout
from eanet.data.augmentation import evaluation_input, training_input
from eanet.model import map_statistics
from eanet.training import metrics, sharding
from eanet.training.experiment import Experiment


class Purpose(enum.IntEnum):
    """What a random stream is for; folded into the run's key."""

    INIT = 0
    ORDER = 1
    AUGMENT = 2
    DROPOUT = 3


def stream(experiment: Experiment, key: jax.Array, purpose: Purpose, index: jax.Array | int = 0) -> jax.Array:
    """Return the key of one purpose at one step (or epoch): seed 0's if the purpose is one that does not vary."""
    if purpose.name.lower() in experiment.fixed:
        key = jax.random.key(0)
    return jax.random.fold_in(jax.random.fold_in(key, purpose), index)


@flax.struct.dataclass
class TrainState:
    """All that a run has learned; with the config, all that it needs to resume."""

    step: jax.Array  # int32, steps done
    params: Any
    opt_state: Any
    epoch_sums: dict[str, jax.Array]  # of the current epoch: each metric, and `examples`


@flax.struct.dataclass
class Monitor:
    """What a call reports besides the state."""

    loss: jax.Array  # of the last step; if the network has diverged, of the first step at which it had
    grad_norm: jax.Array  # of the same step, before clipping
    learning_rate: jax.Array  # of the same step
    diverged_step: jax.Array  # int32, the first step with a loss or gradient not finite or a loss above the limit; -1


INSPECTED = 64  # images

Hyperparameters = dict[str, jax.Array]  # learning_rate, weight_decay and label_smoothing, float32 []


def init_state(
    experiment: Experiment, key: jax.Array, hyperparameters: Hyperparameters, params: Any = None
) -> TrainState:
    """Initialise parameters, unless they are given, and optimizer."""
    if params is None:
        image = jnp.zeros((1, *experiment.image_shape), jnp.float32)
        params = experiment.model.init(stream(experiment, key, Purpose.INIT), image, deterministic=True)["params"]
    sums = {name: jnp.zeros((), jnp.float32) for name in (*metrics.NAMES, "examples")}
    return TrainState(jnp.zeros((), jnp.int32), params, experiment.optimizer(hyperparameters).init(params), sums)


def epoch_order(experiment: Experiment, key: jax.Array, epoch: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Shuffle the training examples of an epoch into batches: indices and mask, [steps, batch].

    The last batch is filled up with masked examples.
    """
    examples = experiment.train_examples
    slots = experiment.steps_per_epoch * experiment.batch_size
    order = jax.random.permutation(stream(experiment, key, Purpose.ORDER, epoch), examples)
    order = jnp.pad(order, (0, slots - examples)).reshape(-1, experiment.batch_size)
    return order, (jnp.arange(slots) < examples).reshape(order.shape)


def train_step(
    experiment: Experiment,
    state: TrainState,
    key: jax.Array,
    hyperparameters: Hyperparameters,
    images: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
) -> tuple[TrainState, Monitor]:
    """Take one optimization step on one batch; `mask` is False where an example only fills the batch.

    images is uint8 [batch, height, width, channels], labels int32 [batch], mask bool [batch].
    """
    inputs = training_input(stream(experiment, key, Purpose.AUGMENT, state.step), images, experiment.preprocessing)
    weights = mask.astype(jnp.float32)
    examples = jnp.sum(weights)
    rngs = {"dropout": stream(experiment, key, Purpose.DROPOUT, state.step)}

    def part_of_mean_loss(params: Any, part: tuple[jax.Array, ...]) -> tuple[jax.Array, dict[str, jax.Array]]:
        inputs, labels, weights, places = part
        with per_example_dropout(places):
            logits = experiment.model.apply({"params": params}, inputs, deterministic=False, rngs=rngs)
        values = metrics.per_example(logits, labels, hyperparameters["label_smoothing"])
        sums = {name: jnp.sum(value * weights) for name, value in values.items()}
        sums["examples"] = jnp.sum(weights)
        return sums["loss"] / examples, sums

    grad = functools.partial(jax.grad(part_of_mean_loss, has_aux=True), state.params)
    grads, sums = _sum_over_parts(experiment, grad, (inputs, labels, weights, jnp.arange(len(labels))))
    loss = sums["loss"] / examples
    updates, opt_state = experiment.optimizer(hyperparameters).update(grads, state.opt_state, state.params)
    starts_epoch = state.step % experiment.steps_per_epoch == 0
    epoch_sums = jax.tree.map(lambda old, new: jnp.where(starts_epoch, 0, old) + new, state.epoch_sums, sums)
    grad_norm = optax.tree.norm(grads)
    healthy = (loss <= experiment.loss_limit) & jnp.isfinite(grad_norm)
    monitor = Monitor(
        loss=loss,
        grad_norm=grad_norm,
        learning_rate=jnp.asarray(experiment.schedule(hyperparameters)(state.step), jnp.float32),
        diverged_step=jnp.where(healthy, -1, state.step),
    )
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state, epoch_sums), monitor


def _sum_over_parts(experiment: Experiment, function: Callable[[Any], Any], batch: tuple[jax.Array, ...]) -> Any:
    """Sum a function over the micro-batches of a batch, one after another."""
    size = experiment.microbatch
    if size == experiment.batch_size:
        return function(batch)

    def cut(x: jax.Array) -> jax.Array:
        # Every part takes something from every device's share of the batch, so that nothing has to move.
        return jnp.swapaxes(x.reshape(size, -1, *x.shape[1:]), 0, 1)

    parts = jax.tree.map(cut, batch)
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total: Any, part: tuple[jax.Array, ...]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    return jax.lax.scan(add, zeros, parts)[0]


def train_call(
    experiment: Experiment,
    state: TrainState,
    key: jax.Array,
    hyperparameters: Hyperparameters,
    images: jax.Array,
    labels: jax.Array,
    num_steps: jax.Array,
) -> tuple[TrainState, Monitor]:
    """Take num_steps steps without leaving the device; they must not cross the end of an epoch.

    images and labels are the whole training set. num_steps is traced, so that one program serves calls
    of any length, the rest of an epoch and the way back to an interrupted one included.
    """
    steps_per_epoch = experiment.steps_per_epoch
    order, masks = epoch_order(experiment, key, state.step // steps_per_epoch)

    def batch(_: jax.Array, step: jax.Array) -> tuple[jax.Array, ...]:
        row = step % steps_per_epoch
        examples = sharding.split_over_data(order[row])
        return images[examples], labels[examples], masks[row]

    return _take_steps(experiment, state, key, hyperparameters, batch, num_steps)


def streamed_call(
    experiment: Experiment,
    state: TrainState,
    key: jax.Array,
    hyperparameters: Hyperparameters,
    images: jax.Array,
    labels: jax.Array,
    num_steps: jax.Array,
) -> tuple[TrainState, Monitor]:
    """Take num_steps steps as train_call does, on batches that come from the host.

    images is uint8 [steps, batch, height, width, channels], labels int32 [steps, batch], in the epoch's order.
    """

    def batch(index: jax.Array, step: jax.Array) -> tuple[jax.Array, ...]:
        row = step % experiment.steps_per_epoch
        mask = row * experiment.batch_size + jnp.arange(experiment.batch_size) < experiment.train_examples
        return *sharding.split_over_data((images[index], labels[index])), mask

    return _take_steps(experiment, state, key, hyperparameters, batch, num_steps)


def _take_steps(
    experiment: Experiment,
    state: TrainState,
    key: jax.Array,
    hyperparameters: Hyperparameters,
    batch: Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]],
    num_steps: jax.Array,
) -> tuple[TrainState, Monitor]:
    """Take steps on the batches that a function gives for the index of a step within the call, and for the step."""

    def one(index: jax.Array, carry: tuple[TrainState, Monitor]) -> tuple[TrainState, Monitor]:
        state, seen = carry
        state, monitor = train_step(experiment, state, key, hyperparameters, *batch(index, state.step))
        # From the first step at which the network has diverged on, what is seen stays that step's.
        kept = seen.diverged_step >= 0
        return state, jax.tree.map(lambda old, new: jnp.where(kept, old, new), seen, monitor)

    nothing = Monitor(*[jnp.zeros((), jnp.float32)] * 3, jnp.full((), -1, jnp.int32))
    return jax.lax.fori_loop(0, num_steps, one, (state, nothing))


def inspect_call(experiment: Experiment, params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Return numbers of the attention maps of the first 64 uint8 images, and of memories: map_statistics.summarize."""
    inputs = evaluation_input(images[:INSPECTED], experiment.preprocessing)
    return map_statistics.summarize(experiment.model, params, inputs)


def evaluate_call(
    experiment: Experiment,
    params: Any,
    hyperparameters: Hyperparameters,
    images: jax.Array,
    labels: jax.Array,
    batch_size: int,
) -> dict[str, jax.Array]:
    """Evaluate every example exactly once, in batches, without augmentation or dropout.

    images is uint8 [examples, height, width, channels], labels int32 [examples]. Returns the metrics of
    each example, float32 [examples], and `predicted`, int32 [examples].
    """
    examples = labels.shape[0]
    batches = -(-examples // batch_size)

    def one(start: jax.Array) -> dict[str, jax.Array]:
        index = jnp.minimum(start + jnp.arange(batch_size), examples - 1)  # the last batch repeats the last example
        index = sharding.split_over_data(index)
        inputs = evaluation_input(images[index], experiment.preprocessing)
        logits = experiment.model.apply({"params": params}, inputs, deterministic=True)
        values = metrics.per_example(logits, labels[index], hyperparameters["label_smoothing"])
        return values | {"predicted": jnp.argmax(logits, axis=-1).astype(jnp.int32)}

    values = jax.lax.map(one, jnp.arange(batches) * batch_size)
    return jax.tree.map(lambda x: x.reshape(-1)[:examples], values)
