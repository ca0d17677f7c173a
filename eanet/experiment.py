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


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What stays the same through a run; hashable, so that it may be a static argument of jit."""

    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    preprocessing: Preprocessing
    label_smoothing: float
    batch_size: int
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
        train_examples=len(dataset.train),
        image_shape=dataset.train.images.shape[1:],
        batch_sharding=sharding.batched(mesh),
    )
