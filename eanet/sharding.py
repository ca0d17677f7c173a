"""Where arrays lie: one mesh axis, `data`, over all devices of all processes.

Arrays are global: a mean over a batch is a mean over all devices, and XLA adds the collectives.
"""

import os

import jax
import ml_collections
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eanet.errors import UserError

DATA_AXIS = "data"


def initialize_processes() -> None:
    """Join the other processes of a run that a cluster or the JAX_… environment describes; else do nothing."""
    env = os.environ
    several = (
        "JAX_COORDINATOR_ADDRESS" in env
        or int(env.get("SLURM_NTASKS", "1")) > 1
        or int(env.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        or "," in env.get("TPU_WORKER_HOSTNAMES", "")
    )
    if several and not jax.distributed.is_initialized():
        jax.distributed.initialize()


def make_mesh() -> jax.sharding.Mesh:
    """Make the mesh of all devices. Auto axes: Linen's Dropout fails under JAX's default, Explicit."""
    return jax.make_mesh((jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def check_batch(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Raise UserError where a batch or a micro-batch of config.train does not divide over the devices."""
    for field in ("batch_size", "microbatch"):
        if config[field] % mesh.size:
            raise UserError(f"config.train.{field}={config[field]} does not divide by the {mesh.size} devices")


def put_replicated(tree, mesh: jax.sharding.Mesh):
    """Copy host arrays, equal in every process, to every device."""
    return jax.tree.map(lambda x: jax.device_put(np.asarray(x), replicated(mesh)), tree)
