"""The configuration's rules: every field with its type and range, checked before anything is built."""

import copy
import functools
import hashlib
import json
import math
import pathlib
import runpy
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections

from eanet.attention import external as attention
from eanet.errors import UserError
from eanet.model import footprint
from eanet.model import vision_transformer as model
from eanet.training import members
from eanet.training import optimizer as optim

Rule = tuple[Callable[[Any], bool], str]  # a test of the value, and in words what passes it


def _whole(low: int, high: int) -> Rule:
    return (lambda v: type(v) is int and low <= v <= high), f"a whole number from {low} to {high}"


def _number(low: float, high: float, below: bool = False) -> Rule:
    def check(value: Any) -> bool:
        if type(value) not in (int, float):
            return False
        return low <= value < high if below else low <= value <= high  # NaN is not

    return check, f"a number from {low:g} to {'below ' if below else ''}{high:g}"


def _choice(*accepted: str) -> Rule:
    return (lambda v: type(v) is str and v in accepted), " or ".join(accepted)


def _positive(high: float) -> Rule:
    check, _ = _number(0, high)
    return (lambda v: check(v) and v > 0), f"a number above 0, at most {high:g}"


def is_text(value: Any) -> bool:
    """Tell whether a value is text without control characters and without bytes that are no character."""
    return type(value) is str and not any(unicodedata.category(character) in ("Cc", "Cs") for character in value)


_FLAG: Rule = ((lambda v: type(v) is bool), "True or False")
_TEXT: Rule = (is_text, "text in one line")
_NAME: Rule = ((lambda v: is_text(v) and v != ""), "text in one line that is not empty")
_TAGS: Rule = (
    (lambda v: isinstance(v, (tuple, list)) and all(is_text(tag) and 0 < len(tag) <= 64 for tag in v)),
    "a tuple of texts of 1 to 64 characters",
)
_RATE = _number(0, 1, below=True)
_MOST_NETWORKS = 1024  # of one run
_MOST_STEPS = 2**31 - 1  # that the step's counter holds

RULES: dict[str, Rule] = {
    "seed": _whole(0, 2**32 - 1),
    "num_seeds": _whole(1, _MOST_NETWORKS),
    "seeds_per_call": _whole(0, 10**6),
    "init_from": (
        is_text,
        "a .keras or .weights.h5 file of the Keras example, a run's directory, or one of its checkpoints; empty = none",
    ),
    "deterministic": _FLAG,
    "data.name": _NAME,
    "data.dir": _TEXT,
    "data.validation_fraction": (
        lambda v: _RATE[0](v) and v > 0,
        "a number above 0 and below 1",
    ),
    "data.train_limit": _whole(0, 10**9),
    "data.eval_limit": _whole(0, 10**9),
    "model.attention": _choice(*model.ATTENTIONS),
    "model.patch_size": _whole(1, 1024),
    "model.dim": _whole(1, 16384),
    "model.depth": _whole(0, 1000),
    "model.mlp_dim": _whole(1, 65536),
    "model.num_heads": _whole(1, 1024),
    "model.head_dim": _whole(0, 16384),
    "model.dim_coefficient": _whole(1, 1024),
    "model.memory_size": _whole(0, 65536),
    "model.normalization": _choice(*attention.NORMALIZATIONS),
    "model.memory_bias": _FLAG,
    "model.tie_memories": _FLAG,
    "model.share_memories": _FLAG,
    "model.attention_dropout": _RATE,
    "model.projection_dropout": _RATE,
    "model.mlp_dropout": _RATE,
    "model.gelu": _choice(*model.GELUS),
    "model.final_norm": _FLAG,
    "model.pool": _choice(*model.POOLS),
    "model.dtype": _choice(*model.DTYPES),
    "augment.flip": _FLAG,
    "augment.rotation": _number(0, 0.5),
    "augment.contrast": _RATE,
    "augment.contrast_upward": _FLAG,
    "augment.contrast_per_batch": _FLAG,
    "augment.contrast_clip": _FLAG,
    "augment.zoom": _RATE,
    "optimizer.learning_rate": _positive(1000),
    "optimizer.weight_decay": _number(0, 1000),
    "optimizer.variant": _choice(*optim.VARIANTS),
    "optimizer.decay_mask": _choice(*optim.DECAY_MASKS),
    "optimizer.schedule": _choice(*optim.SCHEDULES),
    "optimizer.warmup_epochs": _number(0, 10**6),
    "optimizer.clip_norm": _number(0, 10**9),
    "train.batch_size": _whole(1, 10**6),
    "train.microbatch": _whole(0, 10**6),
    "train.epochs": _whole(1, 10**6),
    "train.label_smoothing": _RATE,
    "train.steps_per_call": _whole(0, 10**9),
    "guard.input_difference": _number(0, 10**9),
    "guard.zeros": _number(0, 1),
    "guard.mean": _number(0, 10**9),
    "guard.deviation": _number(0, 10**9),
    "guard.loss": _number(1, 1e38),
    "checkpoint.every_epochs": _whole(1, 10**6),
    "checkpoint.keep": _whole(1, 10**6),
    "wandb.mode": _choice("auto", "online", "offline", "disabled"),
    "wandb.project": _NAME,
    "wandb.entity": _TEXT,
    "wandb.group": _TEXT,
    "wandb.job_type": _TEXT,
    "wandb.tags": _TAGS,
}


def _several(rule: Rule) -> Rule:
    check, accepted = rule

    def check_all(values: Any) -> bool:
        return isinstance(values, (tuple, list)) and all(map(check, values)) and len(set(values)) == len(values)

    return check_all, f"a tuple of different values, each {accepted}; () = none"


RULES |= {f"vary.{name}": _several(RULES[field]) for name, field in members.VARIED.items()}

# Fields that records of earlier versions have and this one does not, each with the default that it had.
RETIRED: dict[str, Any] = {}

# Fields that change where a run's traces go, but not one of its numbers.
_WITHOUT_EFFECT = ("data.dir", "guard", "checkpoint", "wandb")


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give a nested dict as one level of dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


@functools.cache
def _defaults() -> dict[str, Any]:
    # By its path: whoever compares runs from another directory may have a package named configs as well.
    path = pathlib.Path(__file__).parents[2] / "configs/default.py"
    return runpy.run_path(str(path))["get_config"]().to_dict()


def complete(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a record, whatever version wrote it, with the fields of this version.

    A field that did not exist yet takes its default, and one that has been retired is left out. Raises UserError for
    a retired field with another value than its old default, for one that this version has never known, and for what
    is no configuration.
    """
    if "seed" not in recorded or not isinstance(recorded.get("model"), Mapping):
        raise UserError("this is no configuration; accepted: what a run has written")
    kept = {}
    for field, value in flatten(recorded).items():
        if field in RETIRED:
            if (tuple(value) if isinstance(value, list) else value) != RETIRED[field]:
                raise UserError(
                    f"config.{field}={value!r} is of an earlier version; this one knows no such field and accepts "
                    f"records with its old default, {RETIRED[field]!r}, alone"
                )
        elif field not in RULES:
            raise UserError(f"config.{field}={value!r}: no such field in this version; a later one may have written it")
        else:
            kept[field] = value
    whole = copy.deepcopy(_defaults())
    for field, value in kept.items():
        *groups, name = field.split(".")
        functools.reduce(dict.__getitem__, groups, whole)[name] = value
    return whole


def from_record(fields: Any, where: str) -> ml_collections.ConfigDict:
    """Return what a run's config.json holds as a validated configuration, completed where an earlier version wrote it.

    where it lies is for the UserError.
    """
    if not isinstance(fields, dict):
        raise UserError(f"{where} holds no configuration; accepted: what a run has written")
    try:
        config = ml_collections.ConfigDict(complete(fields))
        validate(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return config


def validate(config: ml_collections.ConfigDict) -> None:
    """Raise UserError with one line that names the first bad field, its value and what is accepted."""
    flat = flatten(config.to_dict())
    for field in flat:
        if field not in RULES:
            raise UserError(f"config.{field}={flat[field]!r}: no such field")
    for field, (check, accepted) in RULES.items():
        if field not in flat:
            raise UserError(f"config.{field} is missing; accepted: {accepted}")
        if not check(flat[field]):
            raise UserError(f"config.{field}={flat[field]!r}; accepted: {accepted}")
    _validate_sizes(config.model)
    if config.train.microbatch and config.train.batch_size % config.train.microbatch:
        raise UserError(
            f"config.train.microbatch={config.train.microbatch} does not divide "
            f"config.train.batch_size={config.train.batch_size}"
        )
    if config.seed + config.num_seeds > 2**32:
        raise UserError(
            f"config.num_seeds={config.num_seeds} from config.seed={config.seed} on; accepted: up to seed {2**32 - 1}"
        )
    points = math.prod(len(values) or 1 for values in config.vary.values())
    if config.num_seeds * points > _MOST_NETWORKS:
        raise UserError(
            f"config.num_seeds={config.num_seeds} with each of the {points} points of config.vary are "
            f"{config.num_seeds * points} networks; accepted: at most {_MOST_NETWORKS}"
        )
    for name in ("attention_dropout", "projection_dropout"):
        if config.vary[name] and config.model.attention == "none":
            raise UserError(
                f"config.vary.{name}={config.vary[name]!r}: config.model.attention='none' has no such dropout"
            )
    if config.optimizer.warmup_epochs > config.train.epochs:
        raise UserError(
            f"config.optimizer.warmup_epochs={config.optimizer.warmup_epochs} is longer than the run; "
            f"accepted: at most config.train.epochs={config.train.epochs}"
        )


def _validate_sizes(m: ml_collections.ConfigDict) -> None:
    """Check the sizes that must divide one another; which do depends on the attention."""
    external = m.attention == "external"
    divides_heads = external or (m.attention == "self" and m.head_dim == 0)
    if divides_heads and m.dim % m.num_heads:
        raise UserError(f"config.model.num_heads={m.num_heads} does not divide config.model.dim={m.dim}")
    if external and not m.memory_size and m.dim % m.dim_coefficient:
        raise UserError(f"config.model.dim_coefficient={m.dim_coefficient} does not divide config.model.dim={m.dim}")


def validate_for_images(config: ml_collections.ConfigDict, image_shape: tuple[int, ...]) -> None:
    """Raise UserError where the network does not fit images of [height, width, channels]."""
    side, patch = image_shape[0], config.model.patch_size
    if side % patch:
        raise UserError(
            f"config.model.patch_size={patch} does not divide the {side}×{side} images of {config.data.name}"
        )


def validate_for_data(config: ml_collections.ConfigDict, image_shape: tuple[int, ...], train_examples: int) -> None:
    """Raise UserError where the configuration does not fit the images, their number or the devices' memory.

    image_shape is [height, width, channels].
    """
    validate_for_images(config, image_shape)
    if config.train.batch_size > train_examples:
        raise UserError(
            f"config.train.batch_size={config.train.batch_size} is larger than the training set; "
            f"accepted: at most {train_examples}"
        )
    steps = -(-train_examples // config.train.batch_size)
    if config.train.epochs * steps > _MOST_STEPS:
        raise UserError(
            f"config.train.epochs={config.train.epochs} of {steps} steps are too many to count; "
            f"accepted: at most {_MOST_STEPS // steps}"
        )
    _validate_memory(config, image_shape)


def _validate_memory(config: ml_collections.ConfigDict, image_shape: tuple[int, ...]) -> None:
    """Refuse what cannot fit, before a system without memory kills the run and says nothing."""
    networks = len(members.of(config.to_dict()))
    share = networks // math.gcd(networks, jax.device_count())  # of a device; the seed axis of the mesh has the rest
    images = config.train.microbatch or 1  # 0 is chosen by platform
    needed, there = footprint.least_bytes(config.model, image_shape, share, images), footprint.device_bytes()
    if needed > there:
        count = footprint.parameters_of(config.model, image_shape, 0)
        sizes = ", ".join(f"{name}={config.model[name]}" for name in ("dim", "depth", "mlp_dim", "num_heads"))
        raise UserError(
            f"config.model ({sizes}) takes at least {needed / 2**30:,.1f} GiB a device for {share} times more than "
            f"{count:,} parameters, their gradients and moments, and the activations of {images} "
            f"image{'s' * (images > 1)}; accepted: sizes that fit into {there / 2**30:,.1f} GiB"
        )


def fingerprint(config: dict[str, Any]) -> str:
    """Return 8 hexadecimal digits that stand for all fields with another value than their default.

    So a field that a later version adds does not change them.
    """
    usual = flatten(_defaults())
    changed = {field: value for field, value in flatten(config).items() if field not in usual or value != usual[field]}
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]


def first_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Name the first field with an effect on the numbers in which a configuration and a recorded one differ.

    Raises UserError for a recorded field that this version cannot honour.
    """
    # Through JSON, because a stored configuration has been through it: tuples become lists.
    ours, theirs = (flatten(json.loads(json.dumps(config))) for config in (ours, complete(theirs)))
    for field in sorted(ours.keys() | theirs.keys()):
        if without_effect(field):
            continue
        there, here = (tuple(x) if isinstance(x, list) else x for x in (theirs.get(field), ours.get(field)))
        if there != here:
            return f"config.{field} is {there!r} there and {here!r} here"
    return None


def without_effect(field: str) -> bool:
    """Tell whether a field changes where a run's traces go, but not one of its numbers."""
    return field.startswith(_WITHOUT_EFFECT)
