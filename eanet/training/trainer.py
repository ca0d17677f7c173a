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

    def shapes(self) -> step.TrainState:
        """Return the shapes, types and places of a state."""
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
            *(self.shapes(), self._network_shapes(), (images, labels, np.int32(1))),
            out_shardings=(self._own, self._everywhere),
            donate_argnums=0,
        )

    def lower_step(self, images: Any, labels: Any) -> jax.stages.Lowered:
        """Lower one step on one batch, out of whose costs those of a call are made: XLA counts a loop's body once."""
        batch = self.experiment.batch_size

        def one(state: step.TrainState, key: jax.Array, hyperparameters: Any, *shared: jax.Array) -> Any:
            part = sharding.split_over_data(tuple(x[:batch] for x in shared))
            mask = sharding.split_over_data(np.ones(batch, bool))
            return step.train_step(self.experiment, state, key, hyperparameters, *part, mask)

        mapped = self._over_members(one)
        own = (self.shapes(), *self._network_shapes())
        return self._lower(mapped, own, (images, labels), out_shardings=self._own)

    def lower_evaluation(self, images: Any, labels: Any) -> jax.stages.Lowered:
        """Lower what evaluate calls for the devices of the mesh; images and labels are arrays or their shapes."""
        call = functools.partial(step.evaluate_call, self.experiment, batch_size=self.experiment.evaluation_batch)
        own = (self.shapes().params, self._network_shapes()[1])
        return self._lower(self._over_members(call), own, (images, labels), out_shardings=self._everywhere)

    def compile_training(self, images: jax.Array, labels: jax.Array) -> float:
        """Compile what train calls, and return its temporary memory in bytes, per image that it holds at a time."""
        self._training = self._compile(self.lower_training(images, labels))
        images_at_once = self.experiment.microbatch * self.at_once * self.mesh.shape[sharding.SEED_AXIS]
        return footprint.temporary_bytes(self._training) * self.mesh.size / images_at_once

    def train(self, state: step.TrainState, images: jax.Array, labels: jax.Array, num_steps: int) -> tuple:
        """Take steps of every member, and return the state, and on the host step.Monitor and the epoch's sums.

        images and labels are the whole training set, on the devices. The old state is used up.
        """
        number = sharding.put(np.int32(num_steps), self._everywhere)
        networks = self._networks
        with jax.transfer_guard("disallow"):  # between the number of steps and the metrics nothing crosses to the host
            state, seen = self._training(state, networks, (images, labels, number))
        return state, *jax.device_get(seen)

    def evaluate(self, params: Any, images: jax.Array, labels: jax.Array) -> dict[str, np.ndarray]:
        """Return each example's metrics and predicted class, [members, examples]."""
        if len(labels) not in self._evaluations:
            self._evaluations[len(labels)] = self._compile(self.lower_evaluation(images, labels))
        started = time.perf_counter()
        values = self._evaluations[len(labels)]((params, self._networks[1]), (images, labels))
        values = jax.device_get(values)
        self.seconds_evaluate += time.perf_counter() - started
        return values

    def inspect(self, params: Any, images: jax.Array) -> dict[str, np.ndarray]:
        """Return numbers that describe attention maps of some images, and memories, by name, [members]."""
        if self._inspection is None:
            mapped = self._over_members(functools.partial(step.inspect_call, self.experiment))
            own = (self.shapes().params,)
            self._inspection = self._compile(self._lower(mapped, own, (images,), out_shardings=self._everywhere))
        return jax.device_get(self._inspection((params,), (images,)))

    def put(self, split: Split) -> tuple[jax.Array, jax.Array]:
        """Copy a split's images and labels to every device."""
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
