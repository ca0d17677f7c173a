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
from eanet.model import footprint
from eanet.model import vision_transformer as model
from eanet.model.vision_transformer import VisionTransformer
from eanet.training import optimizer as optim
from eanet.training import sharding

# JAX's names: a float32 product as such, from three passes of narrower factors, from one. A CPU has the first only.
MATMUL_PRECISIONS = ("float32", "tensorfloat32", "bfloat16")

# On a CPU an array that all operations pass over should stay in the cache: measured in docs/speed.md.
_CPU_ACTIVATION_BYTES = 4 * 2**20
_CPU_IMAGES = (16, 64)  # fewer at a time leave a core idle; more gain nothing

# Elsewhere the largest activation of a device's networks together. With twice as much a TPU v5e moves far more bytes,
# and with four times as much XLA does not compile for it (docs/accelerators.md).
_ACCELERATOR_ACTIVATION_BYTES = 64 * 2**20


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
    fixed: tuple[str, ...] = ()  # random streams that are seed 0's in every network: init, order, augment, dropout

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


def images_at_once(model: VisionTransformer, image_shape: tuple[int, ...], mesh: jax.sharding.Mesh) -> int | None:
    """Return how many images are best computed at a time, a power of two; None is as many as there are.

    On a CPU their largest activation should fit into the cache. Elsewhere the whole batch should keep the device busy,
    which was not measured.
    """
    if sharding.platform(mesh) != "cpu" or mesh.shape[sharding.DATA_AXIS] > 1:
        return None
    fit = _CPU_ACTIVATION_BYTES // footprint.largest_activation_bytes(model, image_shape)
    least, most = _CPU_IMAGES
    return min(max(2 ** (fit.bit_length() - 1) if fit else 0, least), most)


def networks_at_once(
    model: VisionTransformer, image_shape: tuple[int, ...], images: int, mesh: jax.sharding.Mesh
) -> int:
    """Return how many networks a device best computes at a time, each with so many images on all devices of its batch.

    On a CPU several only crowd its cache. Elsewhere they fill what one leaves idle, as far as memory goes.
    """
    if sharding.platform(mesh) == "cpu":
        return 1
    own = footprint.largest_activation_bytes(model, image_shape) * -(-images // mesh.shape[sharding.DATA_AXIS])
    return max(1, _ACCELERATOR_ACTIVATION_BYTES // own)


def microbatch(config: ml_collections.ConfigDict, at_once: int | None) -> int:
    """Return the size of a micro-batch: config.microbatch or, if 0, the largest divisor of the batch up to at_once.

    A batch whose divisors are too small for that, e.g. of 127 images, stays whole.
    """
    if config.microbatch or at_once is None:
        return config.microbatch or config.batch_size
    part = max(size for size in range(1, at_once + 1) if config.batch_size % size == 0)
    return part if 2 * part >= _CPU_IMAGES[0] else config.batch_size


def build(config: ml_collections.ConfigDict, dataset: Dataset, mesh: jax.sharding.Mesh) -> Experiment:
    """Build the experiment that a validated configuration describes on a data set."""
    network = model.build_model(config.model, num_classes=len(dataset.class_names))
    image_shape = dataset.train.images.shape[1:]
    at_once = images_at_once(network, image_shape, mesh)
    return Experiment(
        model=network,
        optimizer_config=ml_collections.FrozenConfigDict(config.optimizer),
        preprocessing=Preprocessing(dataset.mean, dataset.deviation, **config.augment.to_dict()),
        epochs=config.train.epochs,
        batch_size=config.train.batch_size,
        microbatch=microbatch(config.train, at_once),
        evaluation_batch=at_once or 8 * config.train.batch_size,
        train_examples=len(dataset.train),
        loss_limit=config.guard.loss * math.log(max(len(dataset.class_names), 2)),
        image_shape=image_shape,
        fixed=tuple(config.fixed),
    )
