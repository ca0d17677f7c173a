"""From a configuration and a data set to the fixed parts that a compiled step closes over."""

import dataclasses

import flax.linen as nn
import jax
import ml_collections
import optax
from jax.sharding import NamedSharding

from eanet import model, optim, sharding
from eanet.augment import Preprocessing
from eanet.data import Dataset

_CPU_MICROBATCH = 16
_CPU_EVALUATION_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What stays the same through a run; hashable, so that it may be a static argument of jit."""

    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    preprocessing: Preprocessing
    label_smoothing: float
    batch_size: int
    microbatch: int  # examples whose activations exist at a time; batch_size = all of them
    evaluation_batch: int  # examples of one evaluation step; a multiple of the devices, as batch_size is
    train_examples: int
    image_shape: tuple[int, ...]  # height, width, channels
    batch_sharding: NamedSharding  # of a batch's examples over the devices

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch, a smaller last batch included."""
        return steps_per_epoch(self.train_examples, self.batch_size)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Count the batches that hold all examples."""
    return -(-examples // batch_size)


def microbatch(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> int:
    """Give the size of a micro-batch: config.microbatch, or where it is 0 what suits the platform.

    On a CPU the activations of 16 images stay in its cache, which was measured to be faster; elsewhere the whole
    batch should keep the device busy, which was not measured.
    """
    if config.microbatch:
        return config.microbatch
    return _CPU_MICROBATCH if _on_one_cpu(mesh) and config.batch_size % _CPU_MICROBATCH == 0 else config.batch_size


def _on_one_cpu(mesh: jax.sharding.Mesh) -> bool:
    return jax.default_backend() == "cpu" and mesh.size == 1


def build(config: ml_collections.ConfigDict, dataset: Dataset, mesh: jax.sharding.Mesh) -> Experiment:
    """Build the experiment that a validated configuration describes on a data set."""
    steps = steps_per_epoch(len(dataset.train), config.train.batch_size)
    schedule = optim.make_schedule(config.optimizer, config.train.epochs * steps, steps)
    return Experiment(
        model=model.build_model(config.model, num_classes=len(dataset.class_names)),
        optimizer=optim.make_optimizer(config.optimizer, schedule),
        schedule=schedule,
        preprocessing=Preprocessing(dataset.mean, dataset.deviation, **config.augment.to_dict()),
        label_smoothing=config.train.label_smoothing,
        batch_size=config.train.batch_size,
        microbatch=microbatch(config.train, mesh),
        evaluation_batch=_CPU_EVALUATION_BATCH if _on_one_cpu(mesh) else 8 * config.train.batch_size,
        train_examples=len(dataset.train),
        image_shape=dataset.train.images.shape[1:],
        batch_sharding=sharding.batched(mesh),
    )
