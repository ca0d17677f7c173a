"""Where arrays lie: a mesh of all devices of all processes, with an axis of seeds and one of data.

Arrays are global: a mean over a batch is a mean over all devices of the data axis, and XLA adds the collectives.
Between the members of a run, along the seed axis, nothing is exchanged.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eanet.errors import UserError

SEED_AXIS, DATA_AXIS = "seed", "data"


def make_mesh(members: int = 1, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """Make the mesh of all devices: as many along the seed axis as divide the members, the rest along the data axis.

    devices, if given, are used instead, e.g. absent ones to compile for. Auto axes: Linen's Dropout fails under JAX's
    default, Explicit.
    """
    count = jax.device_count() if devices is None else len(devices)
    seeds = math.gcd(members, count)
    axes = {"axis_names": (SEED_AXIS, DATA_AXIS), "axis_types": (AxisType.Auto,) * 2}
    return jax.make_mesh((seeds, count // seeds), **axes, devices=devices)


def platform(mesh: jax.sharding.Mesh) -> str:
    """Return the platform of a mesh's devices, which need not be there: cpu, gpu or tpu."""
    name = mesh.devices.flat[0].platform
    return "gpu" if name == "cuda" else name


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_member(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The first axis, of a run's members, split over the seed axis."""
    return NamedSharding(mesh, PartitionSpec(SEED_AXIS))


def batches(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Batches [members, steps, batch, …]: members split over the seed axis, each batch over the data axis."""
    return NamedSharding(mesh, PartitionSpec(SEED_AXIS, None, DATA_AXIS))


def split_over_data(x: Any) -> Any:
    """Split the first axis of an array, or of several, over the data axis of the mesh that is set, if one is."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(DATA_AXIS))


def over_members(function: Callable[..., Any], mesh: jax.sharding.Mesh, at_once: int) -> Callable[[tuple, tuple], Any]:
    """Return function(*own, *shared) for all members of a run, as a function of the tuples `own` and `shared`.

    The arrays of `own` and of the result have a leading axis of members, which is sharded over the seed axis of the
    mesh. Each shard computes `at_once` of its members at a time, with vmap. With at_once=1, a member is computed by
    the same operations as in a run of its own. Must be traced within jax.set_mesh(mesh).
    """

    def part(own: tuple, shared: tuple) -> Any:
        if 1 < at_once and len(jax.tree.leaves(own)[0]) <= at_once:
            return jax.vmap(lambda own: function(*own, *shared))(own)
        return jax.lax.map(lambda own: function(*own, *shared), own, batch_size=at_once if at_once > 1 else None)

    specs = (PartitionSpec(SEED_AXIS), PartitionSpec())
    return jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=specs[0], axis_names={SEED_AXIS}, check_vma=False)


def check_batch(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Raise UserError if a batch or a micro-batch of config.train does not divide over the devices."""
    for field in ("batch_size", "microbatch"):
        if config[field] % mesh.shape[DATA_AXIS]:
            raise UserError(
                f"config.train.{field}={config[field]} does not divide by the {mesh.shape[DATA_AXIS]} devices"
                f"{'' if mesh.shape[SEED_AXIS] == 1 else ' of each seed'}"
            )


def shapes(tree: Any, where: NamedSharding) -> Any:
    """Return the shapes and types of arrays, placed on the devices."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)


def put(tree: Any, where: NamedSharding) -> Any:
    """Copy host arrays, equal in every process, to the devices.

    jax.device_put would compare them between the processes first: the whole training set over the network.
    """

    def place(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, where, lambda index: x[index])

    return jax.tree.map(place, tree)
