"""Batches of training images from the host, for data sets that the devices do not hold.

They come in the order that a run in memory takes them, a function of seed and epoch, so the step of a checkpoint is
their position, too. Grain reads ahead in threads.
"""

import functools
import mmap
import threading
from collections.abc import Callable, Iterator

import grain
import jax
import numpy as np

from eanet.data.datasets import Split
from eanet.training import sharding
from eanet.training.experiment import Experiment

_BYTES = 32 * 2**20  # of the batches of one call
_THREADS, _AHEAD = 2, 4  # that read, and batches that are read ahead

Batch = tuple[np.ndarray, np.ndarray]  # images and labels, [members, batch, …]


class Feed:
    """The batches of a run's steps, each member's own; on the devices a few steps at a time.

    order gives, for an epoch, the examples of every step: int [members, steps, batch] on the host.
    """

    def __init__(
        self,
        split: Split,
        experiment: Experiment,
        members: int,
        mesh: jax.sharding.Mesh,
        order: Callable[[int], np.ndarray],
    ):
        self._split, self._experiment = split, experiment
        _expect_random_reads(split.images)
        self._order, self._lock = functools.lru_cache(maxsize=2)(order), threading.Lock()
        batch = members * experiment.batch_size * split.images[:1].nbytes
        self.steps_at_once = min(max(1, _BYTES // batch), experiment.steps_per_epoch)
        self._shape = (members, self.steps_at_once, experiment.batch_size)
        self._where = sharding.batches(mesh)
        # A process of several needs the batches of its own devices only.
        places = self._where.addressable_devices_indices_map(self._shape).values()
        batch_size = experiment.batch_size
        self._parts = sorted({(_bounds(place[0], members), _bounds(place[2], batch_size)) for place in places})
        self._ahead: Iterator[Batch] = iter(())
        self._next = -1  # the step of the next batch

    def shapes(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Return the shapes, types and places of what take returns."""
        images = jax.ShapeDtypeStruct((*self._shape, *self._split.images.shape[1:]), np.uint8, sharding=self._where)
        return images, jax.ShapeDtypeStruct(self._shape, np.int32, sharding=self._where)

    def take(self, step: int, count: int) -> tuple[jax.Array, jax.Array]:
        """Return images and labels of count steps from one on, [members, steps_at_once, batch, …] on the devices.

        count is at most steps_at_once; what is beyond it is not to be used.
        """
        if step != self._next:
            steps = grain.MapDataset.range(step, self._experiment.total_steps).map(self._load)
            options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
            self._ahead = iter(steps.to_iter_dataset(options))
        images = np.zeros((*self._shape, *self._split.images.shape[1:]), np.uint8)
        labels = np.zeros(self._shape, np.int32)
        for i in range(count):
            images[:, i], labels[:, i] = next(self._ahead)
        self._next = step + count
        return sharding.put((images, labels), self._where)

    def _load(self, step: int) -> Batch:
        """Read the batches of one step, of the members and the parts of a batch that this process needs."""
        epoch, row = divmod(int(step), self._experiment.steps_per_epoch)
        with self._lock:
            examples = self._order(epoch)[:, row]
        images = np.zeros((*examples.shape, *self._split.images.shape[1:]), np.uint8)
        labels = np.zeros(examples.shape, np.int32)
        for (first, last), (start, stop) in self._parts:
            for member in range(first, last):
                wanted = examples[member, start:stop]
                by_place = np.argsort(wanted)  # as they lie on disk
                images[member, start + by_place] = self._split.images[wanted[by_place]]
                labels[member, start:stop] = self._split.labels[wanted]
        return images, labels


def _expect_random_reads(images: np.ndarray) -> None:
    """Keep the system from reading on after each image of a mapped file, as the next one lies somewhere else.

    A set that is larger than memory would otherwise be read many times over.
    """
    base = images
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        base.madvise(mmap.MADV_RANDOM)


def _bounds(part: slice, size: int) -> tuple[int, int]:
    return part.start or 0, size if part.stop is None else part.stop
