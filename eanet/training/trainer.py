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
        fields = config.to_dict()
        self.members = members.members_from_config(fields)
        self.mesh = mesh
        self.experiment = experiment.build(config, dataset, mesh)
        # On a CPU several networks at once only crowd its cache; elsewhere they fill what one leaves idle.
        default = 1 if jax.default_backend() == "cpu" else len(self.members)
        self._at_once = min(config.seeds_per_call or default, len(self.members) // mesh.shape[sharding.SEED_AXIS])
        self._own = sharding.by_member(mesh)
        self._everywhere = sharding.replicated(mesh)
        seeds = np.array([member.seed for member in self.members], np.uint32)
        self._keys = jax.jit(jax.vmap(jax.random.key), out_shardings=self._own)(seeds)
        hyperparameters = members.hyperparameters(fields, self.members)
        self._hyperparameters = sharding.put(hyperparameters, self._own)
        # Of XLA: on a GPU some operations, and the choice between them, are faster where their order is left open.
        deterministic = config.deterministic and jax.default_backend() == "gpu"
        self._compiler_options = {"xla_gpu_deterministic_ops": True} if deterministic else None
        self._training: Any = None
        self._evaluations: dict[int, Any] = {}
        self.seconds_compile = 0.0  # since somebody last set it to 0, as the next
        self.seconds_evaluate = 0.0

    def shapes(self) -> step.TrainState:
        """Return the shapes, types and places of a state."""
        init = functools.partial(step.init_state, self.experiment)
        shapes = jax.eval_shape(self._over_members(init), (self._keys, self._hyperparameters), ())
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._own), shapes)

    def init(self, params: Any = None) -> step.TrainState:
        """Initialise parameters and optimizer of every member.

        params are those to begin with, if given: host arrays with a leading axis of members.
        """
        init = functools.partial(step.init_state, self.experiment)
        own = (self._keys, self._hyperparameters)
        if params is not None:
            own += (self.put_by_member(params),)
        return self._compile(self._over_members(init), own, (), out_shardings=self._own)(own, ())

    def compile_training(self, state: step.TrainState, images: jax.Array, labels: jax.Array) -> float:
        """Compile what train calls, and return its temporary memory in bytes, per image that it holds at a time."""

        def call(state: step.TrainState, key: jax.Array, hyperparameters: Any, *shared: jax.Array) -> Any:
            state, monitor = step.train_call(self.experiment, state, key, hyperparameters, *shared)
            return state, (monitor, state.epoch_sums)

        mapped = self._over_members(call)
        self._training = self._compile(
            lambda state, rest, shared: mapped((state, *rest), shared),
            *(state, (self._keys, self._hyperparameters), (images, labels, np.int32(1))),
            out_shardings=(self._own, self._everywhere),
            donate_argnums=0,
        )
        images_at_once = self.experiment.microbatch * self._at_once * self.mesh.shape[sharding.SEED_AXIS]
        return footprint.temporary_bytes(self._training) * self.mesh.size / images_at_once

    def train(self, state: step.TrainState, images: jax.Array, labels: jax.Array, num_steps: int) -> tuple:
        """Take steps of every member, and return the state, and on the host step.Monitor and the epoch's sums.

        images and labels are the whole training set, on the devices. The old state is used up.
        """
        rest = (self._keys, self._hyperparameters)
        number = sharding.put(np.int32(num_steps), self._everywhere)
        with jax.transfer_guard("disallow"):  # between the number of steps and the metrics nothing crosses to the host
            state, seen = self._training(state, rest, (images, labels, number))
        return state, *jax.device_get(seen)

    def evaluate(self, params: Any, images: jax.Array, labels: jax.Array) -> dict[str, np.ndarray]:
        """Return each example's metrics and predicted class, [members, examples]."""
        own, shared = (params, self._hyperparameters), (images, labels)
        if len(labels) not in self._evaluations:
            batch_size = self.experiment.evaluation_batch
            call = functools.partial(step.evaluate_call, self.experiment, batch_size=batch_size)
            mapped = self._over_members(call)
            self._evaluations[len(labels)] = self._compile(mapped, own, shared, out_shardings=self._everywhere)
        started = time.perf_counter()
        values = jax.device_get(self._evaluations[len(labels)](own, shared))
        self.seconds_evaluate += time.perf_counter() - started
        return values

    def put(self, split: Split) -> tuple[jax.Array, jax.Array]:
        """Copy a split's images and labels to every device."""
        return sharding.put((split.images, split.labels), self._everywhere)

    def put_by_member(self, tree: Any) -> Any:
        """Copy host arrays with a leading axis of members to the devices."""
        return sharding.put(tree, self._own)

    def _over_members(self, function: Any) -> Any:
        return sharding.over_members(function, self.mesh, self._at_once)

    def _compile(self, function: Any, *arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        with jax.set_mesh(self.mesh):
            compiled = jax.jit(function, **options).lower(*arguments).compile(self._compiler_options)
        self.seconds_compile += time.perf_counter() - started
        return compiled
