"""A run's members on the devices: their keys and hyperparameters, and the compiled functions over all of them."""

import functools
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from eanet.data.datasets import Dataset, Split
from eanet.model import footprint
from eanet.training import experiment, members, sharding, step
from eanet.training.feed import Feed

_EVALUATED_BYTES = 64 * 2**20  # of the images of one call, if they come from the host
_HELD = 0.5  # of a device's memory that all images may take before they are streamed


class Trainer:
    """Everything that a run calls on the devices. States, parameters and results have a leading axis of members."""

    def __init__(self, config: ml_collections.ConfigDict, dataset: Dataset, mesh: jax.sharding.Mesh):
        fields, platform = config.to_dict(), sharding.platform(mesh)
        self.members = members.members_from_config(fields)
        self.mesh = mesh
        self.experiment = experiment.build(config, dataset, mesh)
        own = self.experiment
        default = experiment.networks_at_once(own.model, own.image_shape, own.microbatch, mesh)
        self.at_once = min(config.seeds_per_call or default, len(self.members) // mesh.shape[sharding.SEED_AXIS])
        self.streaming = _streams(config.data.streaming, dataset)
        self._own = sharding.by_member(mesh)
        self._everywhere = sharding.replicated(mesh)
        self._seeds = np.array([member.seed for member in self.members], np.uint32)
        self._hyperparameters = members.hyperparameters(fields, self.members)
        self._precision = config.matmul_precision
        # Of XLA: on a GPU some operations, and the choice between them, are faster where their order is left open.
        deterministic = config.deterministic and platform == "gpu"
        self._compiler_options = {"xla_gpu_deterministic_ops": True} if deterministic else None
        self._training: Any = None
        self._evaluations: dict[int, Any] = {}
        self._inspection: Any = None
        self._feed: Feed | None = None
        self.seconds_compile = 0.0  # since somebody last set it to 0, as the next
        self.seconds_evaluate = 0.0

    @functools.cached_property
    def _networks(self) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Each member's key and hyperparameters, on the devices."""
        keys = jax.jit(jax.vmap(jax.random.key), out_shardings=self._own)(self._seeds)
        return keys, sharding.put(self._hyperparameters, self._own)

    def _network_shapes(self) -> tuple[Any, Any]:
        keys = jax.eval_shape(jax.vmap(jax.random.key), self._seeds)
        return sharding.shapes((keys, self._hyperparameters), self._own)

    def chosen(self) -> dict[str, int]:
        """Return what the configuration may leave to the platform: images and networks that are computed at a time."""
        own = self.experiment
        return {
            "microbatch": own.microbatch,
            "evaluation_batch": own.evaluation_batch,
            "networks_at_once": self.at_once,
        }

    @functools.cached_property
    def shapes(self) -> step.TrainState:
        """Shapes, types and places of a state."""
        init = functools.partial(step.init_state, self.experiment)
        return sharding.shapes(jax.eval_shape(self._over_members(init), self._network_shapes(), ()), self._own)

    def split_shapes(self, split: Split) -> tuple[Any, Any]:
        """Return the shapes, types and places of what put copies to the devices."""
        return sharding.shapes((split.images, split.labels), self._everywhere)

    def init(self, params: Any = None) -> step.TrainState:
        """Initialise parameters and optimizer of every member.

        params are those to begin with, if given: host arrays with a leading axis of members.
        """
        init = functools.partial(step.init_state, self.experiment)
        own = self._networks
        if params is not None:
            own += (self.put_by_member(params),)
        return self._compile(self._lower(self._over_members(init), own, (), out_shardings=self._own))(own, ())

    def lower_training(self, images: Any, labels: Any) -> jax.stages.Lowered:
        """Lower what train calls for the devices of the mesh; images and labels are arrays or their shapes."""

        def call(state: step.TrainState, key: jax.Array, hyperparameters: Any, *shared: jax.Array) -> Any:
            state, monitor = step.train_call(self.experiment, state, key, hyperparameters, *shared)
            return state, (monitor, state.epoch_sums)

        mapped = self._over_members(call)
        return self._lower(
            lambda state, networks, shared: mapped((state, *networks), shared),
            *(self.shapes, self._network_shapes(), (images, labels, np.int32(1))),
            out_shardings=(self._own, self._everywhere),
            donate_argnums=0,
        )

    def lower_step(self, images: Any, labels: Any) -> jax.stages.Lowered:
        """Lower one step on one batch, to derive the costs of a call from it: XLA counts a loop's body only once."""
        batch = self.experiment.batch_size

        def one(state: step.TrainState, key: jax.Array, hyperparameters: Any, *shared: jax.Array) -> Any:
            part = sharding.split_over_data(tuple(x[:batch] for x in shared))
            mask = sharding.split_over_data(np.ones(batch, bool))
            return step.train_step(self.experiment, state, key, hyperparameters, *part, mask)

        mapped = self._over_members(one)
        own = (self.shapes, *self._network_shapes())
        return self._lower(mapped, own, (images, labels), out_shardings=self._own)

    def lower_evaluation(self, images: Any, labels: Any) -> jax.stages.Lowered:
        """Lower what evaluate calls for the devices of the mesh; images and labels are arrays or their shapes."""
        call = functools.partial(step.evaluate_call, self.experiment, batch_size=self.experiment.evaluation_batch)
        own = (self.shapes.params, self._network_shapes()[1])
        return self._lower(self._over_members(call), own, (images, labels), out_shardings=self._everywhere)

    def compile_training(self, images: Any, labels: Any) -> float:
        """Compile what train calls, and return its temporary memory in bytes, per image that it holds at a time.

        images and labels are what put returned.
        """
        self._feed = None
        if isinstance(images, np.ndarray):
            split = Split(images, labels)
            self._feed = Feed(split, self.experiment, len(self.members), self.mesh, self._epoch_order)
        lowered = self._lower_feed() if self._feed else self.lower_training(images, labels)
        self._training = self._compile(lowered)
        images_at_once = self.experiment.microbatch * self.at_once * self.mesh.shape[sharding.SEED_AXIS]
        return footprint.temporary_bytes(self._training) * self.mesh.size / images_at_once

    def _lower_feed(self) -> jax.stages.Lowered:
        """Lower what train calls with batches from the host."""

        def call(state: step.TrainState, key: jax.Array, hyperparameters: Any, *batches: jax.Array) -> Any:
            state, monitor = step.streamed_call(self.experiment, state, key, hyperparameters, *batches)
            return state, (monitor, state.epoch_sums)

        mapped = self._over_members(call)
        return self._lower(
            lambda state, networks, batches, number: mapped((state, *networks, *batches), (number,)),
            *(self.shapes, self._network_shapes(), self._feed.shapes(), np.int32(1)),
            out_shardings=(self._own, self._everywhere),
            donate_argnums=0,
        )

    def _epoch_order(self, epoch: int) -> np.ndarray:
        """Return the training examples of each member's steps in an epoch, [members, steps, batch].

        Each process computes it on its own first device: whoever reads ahead must not wait for other processes.
        """
        return jax.device_get(_epoch_orders(self.experiment, self._seeds, np.int32(epoch)))

    def train(self, state: step.TrainState, images: Any, labels: Any, num_steps: int) -> tuple:
        """Take steps of every member, and return the new state and, on the host, a step.Monitor and the epoch's sums.

        images and labels are those passed to compile_training. The old state is donated.
        """
        if self._feed is not None:
            return self._train_from_feed(state, num_steps)
        number = sharding.put(np.int32(num_steps), self._everywhere)
        networks = self._networks
        with jax.transfer_guard("disallow"):  # between the number of steps and the metrics nothing crosses to the host
            state, seen = self._training(state, networks, (images, labels, number))
        return state, *jax.device_get(seen)

    def _train_from_feed(self, state: step.TrainState, num_steps: int) -> tuple:
        """Take steps on batches from the host, some in a call, the next ones on their way while the devices compute."""
        position, networks, seen = int(state.step.addressable_shards[0].data[0]), self._networks, []
        while num_steps:
            count = min(num_steps, self._feed.steps_at_once)
            batches = self._feed.take(position, count)
            number = sharding.put(np.int32(count), self._everywhere)
            with jax.transfer_guard("disallow"):
                state, (monitor, sums) = self._training(state, networks, batches, number)
            seen.append(monitor)
            if len(seen) > 1:
                jax.block_until_ready(seen[-2])  # so that no more than two calls' batches are on the devices
            position, num_steps = position + count, num_steps - count
        return state, functools.reduce(_first_divergence, jax.device_get(seen)), jax.device_get(sums)

    def evaluate(self, params: Any, images: Any, labels: Any) -> dict[str, np.ndarray]:
        """Return each example's metrics and predicted class, [members, examples]; images and labels as put returns."""
        if isinstance(images, np.ndarray):
            return self._evaluate_from_host(params, Split(images, labels))
        if len(labels) not in self._evaluations:
            self._evaluations[len(labels)] = self._compile(self.lower_evaluation(images, labels))
        started = time.perf_counter()
        values = self._evaluations[len(labels)]((params, self._networks[1]), (images, labels))
        values = jax.device_get(values)
        self.seconds_evaluate += time.perf_counter() - started
        return values

    def inspect(self, params: Any, images: jax.Array) -> dict[str, np.ndarray]:
        """Return numbers that describe attention maps of some images, and memories, by name, [members]."""
        if isinstance(images, np.ndarray):
            images = sharding.put(images[: step.INSPECTED], self._everywhere)
        if self._inspection is None:
            mapped = self._over_members(functools.partial(step.inspect_call, self.experiment))
            own = (self.shapes.params,)
            self._inspection = self._compile(self._lower(mapped, own, (images,), out_shardings=self._everywhere))
        return jax.device_get(self._inspection((params,), (images,)))

    def _evaluate_from_host(self, params: Any, split: Split) -> dict[str, np.ndarray]:
        """Evaluate a split in pieces of whole batches, the last one filled with its last example."""
        batch = self.experiment.evaluation_batch
        most, needed = _EVALUATED_BYTES // (batch * split.images[:1].nbytes), -(-len(split) // batch)
        size = batch * min(max(1, most), needed)
        found = []
        for start in range(0, len(split), size):
            piece = split[np.minimum(np.arange(start, start + size), len(split) - 1)]
            found.append(self.evaluate(params, *sharding.put((piece.images, piece.labels), self._everywhere)))
        return {name: np.concatenate([one[name] for one in found], axis=1)[:, : len(split)] for name in found[0]}

    def put(self, split: Split) -> tuple[Any, Any]:
        """Copy a split's images and labels to every device; if the run streams them, return them as they are."""
        if self.streaming:
            return split.images, split.labels
        return sharding.put((split.images, split.labels), self._everywhere)

    def put_by_member(self, tree: Any) -> Any:
        """Copy host arrays with a leading axis of members to the devices."""
        return sharding.put(tree, self._own)

    def _over_members(self, function: Any) -> Any:
        return sharding.over_members(function, self.mesh, self.at_once)

    def _lower(self, function: Any, *arguments: Any, **options: Any) -> jax.stages.Lowered:
        started = time.perf_counter()
        with jax.set_mesh(self.mesh), jax.default_matmul_precision(self._precision):
            lowered = jax.jit(function, **options).lower(*arguments)
        self.seconds_compile += time.perf_counter() - started
        return lowered

    def _compile(self, lowered: jax.stages.Lowered) -> Any:
        started = time.perf_counter()
        with jax.set_mesh(self.mesh):
            compiled = lowered.compile(self._compiler_options)
        self.seconds_compile += time.perf_counter() - started
        return compiled


@functools.partial(jax.jit, static_argnums=0)
def _epoch_orders(own: experiment.Experiment, seeds: jax.Array, epoch: jax.Array) -> jax.Array:
    return jax.lax.map(lambda seed: step.epoch_order(own, jax.random.key(seed), epoch)[0], seeds)


def image_bytes(dataset: Dataset) -> int:
    """Return the bytes of all images of a data set."""
    return sum(split.images.nbytes for split in (dataset.train, dataset.validation, dataset.test))


def _streams(wanted: str, dataset: Dataset) -> bool:
    """Return whether images come from the host: as wanted, always or never, or because they take too much memory."""
    if wanted == "auto":
        return image_bytes(dataset) > _HELD * footprint.device_bytes()
    return wanted == "always"


def _first_divergence(seen: step.Monitor, later: step.Monitor) -> step.Monitor:
    """Return what two calls report together: each member's later one, or the one in which it has diverged."""
    kept = seen.diverged_step >= 0
    return jax.tree.map(lambda old, new: np.where(kept, old, new), seen, later)
