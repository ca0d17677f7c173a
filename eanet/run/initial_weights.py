"""The weights that a run begins with (config.init_from): those of a file of the Keras example, or of another run.

Parameters only: the optimizer, the step and all randomness begin anew. Whatever the source's inputs were normalised
with, its network gives the same logits here.
"""

import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import traverse_util

from eanet.config import rules, stored
from eanet.data import datasets as data
from eanet.errors import UserError
from eanet.keras_weights import from_keras
from eanet.model import footprint
from eanet.model import vision_transformer as model
from eanet.model.input_normalization import renormalized
from eanet.run.checkpoint import Checkpoints, checksum_of_arrays
from eanet.run.record import Record
from eanet.training import members, processes, sharding
from eanet.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """Parameters of every member, and where they are from."""

    params: Any  # float32 host arrays with a leading axis of members
    origin: dict[str, Any]  # JSON-able: source, sha256, and the checkpoint's step if there is one


def read_initial_weights(config: ml_collections.ConfigDict, dataset: data.Dataset) -> InitialWeights:
    """Read the weights that config.init_from names for all members of a validated configuration. Writes nothing.

    Raises UserError naming config.init_from if there are none or they do not fit.
    """
    path = pathlib.Path(os.path.expanduser(config.init_from)).absolute()
    try:
        if path.is_dir():
            own, origin = _of_run(path, config, dataset)
        elif path.is_file():
            params = from_keras(path, mean=dataset.mean, deviation=dataset.deviation)
            own = [traverse_util.flatten_dict(params, sep="/")]
            origin = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        else:
            raise UserError("no such file or directory")
        network = model.build_model(config.model, len(dataset.class_names))
        shapes = footprint.parameter_shapes(network, dataset.train.images.shape[1:])
        for flat in own:
            _check(flat, traverse_util.flatten_dict(shapes, sep="/"), config.model.attention)
    except (UserError, ValueError, OSError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        accepted = rules.RULES["init_from"][1]
        raise UserError(f"config.init_from={config.init_from}: {reason}; accepted: {accepted}") from error
    # A source of one network has it for all members.
    own *= len(members.members_from_config(config.to_dict())) // len(own)
    stacked = {name: np.stack([flat[name] for flat in own]) for name in own[0]}
    return InitialWeights(traverse_util.unflatten_dict(stacked, sep="/"), {"source": str(path)} | origin)


def _of_run(
    path: pathlib.Path, config: ml_collections.ConfigDict, dataset: data.Dataset
) -> tuple[list[dict[str, np.ndarray]], dict[str, Any]]:
    """Return the parameters of each member, or of the only network, in a run's checkpoint, and the checkpoint."""
    workdir, only = path, None
    if path.parent.name == "checkpoints" and path.name.isdecimal():
        workdir, only = path.parent.parent, int(path.name)
    record = Record(workdir)
    fields = record.read("config.json")
    if fields is None:
        raise UserError(f"there is no config.json of a run in {workdir}")
    source = stored.from_record(fields, f"{workdir}/config.json")
    fields = source.to_dict()
    if source.data.name != config.data.name:
        source.data.dir = config.data.dir  # its own may be another machine's
        seen = processes.first_process_first(lambda: data.load(source.data))
    else:
        seen = dataset
    if not record.has_checkpoint():
        raise UserError(f"there is no checkpoint in {workdir}")
    rules.validate_for_images(source, seen.train.images.shape[1:])
    available = members.members_from_config(fields)
    chosen = [available[0]] if len(available) == 1 else members.members_from_config(config.to_dict())
    for member in chosen:
        if member not in available:
            names = ", ".join(known.name for known in available)
            raise UserError(f"its run has no {member.name}, but {names}")
    state, scores, step = _restore(record, fields, Trainer(source, seen, sharding.make_mesh(len(available))), only)
    own = []
    for member in chosen:
        i = available.index(member)
        if scores["diverged"][i] >= 0:
            raise UserError(f"its {member.name} diverged at step {scores['diverged'][i]}")
        flat = {name: np.asarray(x)[i] for name, x in traverse_util.flatten_dict(state.params, sep="/").items()}
        if (seen.mean, seen.deviation) != (dataset.mean, dataset.deviation):
            flat |= renormalized(flat, (seen.mean, seen.deviation), (dataset.mean, dataset.deviation))
        own.append(flat)
    return own, {"checkpoint": step, "sha256": checksum_of_arrays(state)}


def _restore(record: Record, fields: Any, trainer: Trainer, only: int | None) -> tuple[Any, dict[str, Any], int]:
    """Return the state of a checkpoint, whole in every process, the run's scores then, and the step."""
    everywhere = sharding.replicated(trainer.mesh)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), trainer.shapes)
    state, extra = Checkpoints(record.checkpoints, read_only=True).restore(like, fields, only)
    return state, extra["tally"], int(np.asarray(state.step)[0])


def _check(flat: dict[str, Any], shapes: dict[str, Any], attention: str) -> None:
    """Raise UserError naming the first parameter that is missing, left over, of another shape, or not finite."""
    for name in sorted(flat.keys() | shapes.keys()):
        theirs, ours = (tuple(tree[name].shape) if name in tree else None for tree in (flat, shapes))
        if theirs != ours:
            there, here = (f"has {name} {shape}" if shape else f"has no {name}" for shape in (theirs, ours))
            raise UserError(f"its network {there}; that of config.model (attention={attention}) and config.data {here}")
        if not np.all(np.isfinite(flat[name])):
            raise UserError(f"its {name} is not finite")
