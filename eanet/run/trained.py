"""A trained run, ready to use: its networks, what they give for images, and their attention maps."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from eanet.config import rules, stored
from eanet.data import datasets as data
from eanet.data.augmentation import evaluation_input
from eanet.data.description import without_images
from eanet.errors import UserError
from eanet.run.checkpoint import Checkpoints
from eanet.run.record import Record
from eanet.training import sharding
from eanet.training.experiment import Experiment
from eanet.training.members import Member, members_from_config
from eanet.training.step import TrainState
from eanet.training.trainer import Trainer


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedRun:
    """The newest checkpoint of a run. Networks are its seeds, and its grid, that have not diverged; mostly one."""

    workdir: pathlib.Path
    config: ml_collections.ConfigDict
    step: int  # optimizer steps that the networks have taken
    dataset: data.Dataset  # without images: see load_data
    experiment: Experiment
    networks: tuple[Member, ...]
    params: Any  # float32 host arrays with a leading axis of networks

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.dataset.class_names

    def only(self, network: int) -> "TrainedRun":
        """Return the run with one of its networks."""
        own = slice(network, network + 1)
        params = jax.tree.map(lambda x: x[own], self.params)
        return dataclasses.replace(self, networks=self.networks[own], params=params)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return float32 [networks, images, classes] for uint8 images [images, height, width, channels].

        Raises ValueError for images of another type or size than those of training.
        """
        return self.apply(images, lambda params, inputs: self.experiment.model.apply({"params": params}, inputs))

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of the classes, float32 [networks, images, classes]; as logits otherwise."""
        return np.asarray(jax.nn.softmax(self.logits(images), axis=-1))

    def attention_maps(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return what each block's attention has stored of its maps, by block and name, e.g. block_0/attention_map.

        Arrays are float32 [networks, images, …]: [heads, tokens, tokens] of self-attention, [tokens, heads, slots] of
        external attention, which also has attention_map_over_tokens, as it is before the second norm; of induced
        attention two, to and from the slots. Empty for attentions without maps.
        """

        def maps(params: Any, inputs: jax.Array) -> dict[str, jax.Array]:
            _, state = self.experiment.model.apply({"params": params}, inputs, mutable=["intermediates"])
            leaves = jax.tree_util.tree_leaves_with_path(state.get("intermediates", {}))
            return {f"{path[0].key}/{path[-2].key}": leaf for path, leaf in leaves}

        return self.apply(images, maps)

    def load_data(self) -> data.Dataset:
        """Load the data set, with its images, that the run was trained on."""
        return data.load(self.config.data)

    def apply(self, images: np.ndarray, function: Callable[[Any, jax.Array], Any]) -> Any:
        """Call a function of a network's parameters and inputs for all networks, a batch of images at a time.

        images are uint8, the inputs are the floats that the network sees. The function is compiled; it returns arrays
        whose first axis is the batch's, and here they come as [networks, images, …]. Raises ValueError as logits does.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self.experiment.image_shape:
            wanted = "×".join(map(str, self.experiment.image_shape))
            raise ValueError(
                f"images are {images.dtype} {list(images.shape)}; accepted: uint8 [images, height, width, channels] of "
                f"{wanted}"
            )
        size, outputs = self.experiment.evaluation_batch, []
        call = _compiled(self.experiment, self.config.matmul_precision, function)
        for start in range(0, max(len(images), 1), size):
            batch = images[start : start + size]
            padded = np.zeros((size, *images.shape[1:]), np.uint8)  # one shape, so one compilation
            padded[: len(batch)] = batch
            outputs.append(jax.tree.map(np.asarray, call(self.params, padded)))
        return jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[:, : len(images)], *outputs)


def _compiled(experiment: Experiment, precision: str, function: Callable[[Any, jax.Array], Any]) -> Callable:
    @jax.jit
    def call(params: Any, images: jax.Array) -> Any:
        inputs = evaluation_input(jnp.asarray(images), experiment.preprocessing)
        return jax.lax.map(functools.partial(function, inputs=inputs), params)

    def with_precision(*arguments: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return call(*arguments)

    return with_precision


def load_run(directory: str | pathlib.Path) -> TrainedRun:
    """Load the newest checkpoint of a run that has finished, was interrupted, or is in progress. Writes nothing.

    The data set itself is needed only for runs of versions that did not describe it in data.json. Raises UserError if
    the directory holds no run or no checkpoint, or if all networks have diverged.
    """
    record = Record(directory, primary=False)
    fields = record.read("config.json")
    if not isinstance(fields, dict):
        raise UserError(f"{directory} holds no run (there is no config.json); accepted: a run's directory")
    config = stored.from_record(fields, f"{record.workdir}/config.json")
    description = record.read("data.json")
    try:
        dataset = data.load(config.data) if description is None else without_images(description)
    except ValueError as error:
        raise UserError(f"{record.workdir}/data.json: {error}", exit_code=1) from error
    trainer, state, extra = restore_newest(record, config, dataset)
    networks = [i for i, step in enumerate(extra["tally"]["diverged"]) if step < 0]
    if not networks:
        raise UserError(f"{directory}: all networks have diverged", exit_code=1)
    return TrainedRun(
        workdir=record.workdir,
        config=config,
        step=int(np.asarray(state.step)[0]),
        dataset=dataset,
        experiment=trainer.experiment,
        networks=tuple(trainer.members[i] for i in networks),
        params=jax.tree.map(lambda x: np.asarray(x)[networks], state.params),
    )


def restore_newest(
    record: Record, config: ml_collections.ConfigDict, dataset: data.Dataset
) -> tuple[Trainer, TrainState, dict[str, Any]]:
    """Return the trainer of a run, and the state and the host values of its newest whole checkpoint.

    Raises UserError if there is none.
    """
    rules.validate_for_images(config, dataset.train.images.shape[1:])
    trainer = Trainer(config, dataset, sharding.make_mesh(len(members_from_config(config.to_dict()))))
    restored = None
    if record.checkpoints.is_dir():
        restored = Checkpoints(record.checkpoints, read_only=True).restore(trainer.shapes, config.to_dict())
    if restored is None:
        raise UserError(f"{record.workdir} holds no checkpoint yet")
    return trainer, *restored
