"""From a configuration and a data set to the fixed parts that a compiled step closes over."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import optax

from eanet.data.augmentation import Preprocessing
from eanet.data.datasets import Dataset
from eanet.model import vision_transformer as model
from eanet.model.vision_transformer import VisionTransformer
from eanet.training import optimizer as optim
from eanet.training import sharding

_CPU_MICROBATCH = 16
_CPU_EVALUATION_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What stays the same through a run; hashable, so that it may be a static argument of jit."""

    model: VisionTransformer
    optimizer_config: ml_collections.FrozenConfigDict  # config.optimizer
    preprocessing: Preprocessing
    epochs: int
    batch_size: int
    microbatch: int  # examples whose activations exist at a time; batch_size = all of them
    evaluation_batch: int  # examples of one evaluation step; a multiple of the devices, as batch_size is
    train_examples: int
    loss_limit: float  # a loss above it has diverged
    image_shape: tuple[int, ...]  # height, width, channels

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch, a smaller last batch included."""
        return steps_per_epoch(self.train_examples, self.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def schedule(self, hyperparameters: Mapping[str, Any]) -> optax.Schedule:
        """Return the learning rate of each step, at the height that the hyperparameters say."""
        return optim.make_schedule(self._optimizer_config(hyperparameters), self.total_steps, self.steps_per_epoch)

    def optimizer(self, hyperparameters: Mapping[str, Any]) -> optax.GradientTransformation:
        """Return the optimizer with the learning rate and the weight decay of the hyperparameters."""
        return optim.make_optimizer(self._optimizer_config(hyperparameters), self.schedule(hyperparameters))

    def _optimizer_config(self, hyperparameters: Mapping[str, Any]) -> ml_collections.ConfigDict:
        own = {name: hyperparameters[name] for name in ("learning_rate", "weight_decay")}
        return ml_collections.ConfigDict(self.optimizer_config.to_dict() | own)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Count the batches that hold all examples."""
    return -(-examples // batch_size)


def microbatch(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> int:
    """Return the size of a micro-batch: config.microbatch, or what suits the platform if that is 0.

    On a CPU the activations of 16 images stay in its cache, which was measured to be faster; elsewhere the whole
    batch should keep the device busy, which was not measured.
    """
    if config.microbatch:
        return config.microbatch
    return _CPU_MICROBATCH if _on_one_cpu(mesh) and config.batch_size % _CPU_MICROBATCH == 0 else config.batch_size


def _on_one_cpu(mesh: jax.sharding.Mesh) -> bool:
    return jax.default_backend() == "cpu" and mesh.shape[sharding.DATA_AXIS] == 1


def build(config: ml_collections.ConfigDict, dataset: Dataset, mesh: jax.sharding.Mesh) -> Experiment:
    """Build the experiment that a validated configuration describes on a data set."""
    return Experiment(
        model=model.build_model(config.model, num_classes=len(dataset.class_names)),
        optimizer_config=ml_collections.FrozenConfigDict(config.optimizer),
        preprocessing=Preprocessing(dataset.mean, dataset.deviation, **config.augment.to_dict()),
        epochs=config.train.epochs,
        batch_size=config.train.batch_size,
        microbatch=microbatch(config.train, mesh),
        evaluation_batch=_CPU_EVALUATION_BATCH if _on_one_cpu(mesh) else 8 * config.train.batch_size,
        train_examples=len(dataset.train),
        loss_limit=config.guard.loss * math.log(max(len(dataset.class_names), 2)),
        image_shape=dataset.train.images.shape[1:],
    )
