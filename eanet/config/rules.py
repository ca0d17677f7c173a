"""The configuration's rules: every field with its type and range, checked before anything is built."""

import functools
import math
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from eanet.attention import ATTENTIONS
from eanet.attention.external import NORMALIZATIONS
from eanet.attention.self_attention import SOURCES
from eanet.errors import UserError
from eanet.model import footprint
from eanet.model import vision_transformer as model
from eanet.training import experiment, members
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
    """Return whether a value is text without control characters and without bytes that are not characters."""
    return type(value) is str and not any(unicodedata.category(character) in ("Cc", "Cs") for character in value)


_FLAG: Rule = ((lambda v: type(v) is bool), "True or False")
_TEXT: Rule = (is_text, "text in one line")
_NAME: Rule = ((lambda v: is_text(v) and v != ""), "text in one line that is not empty")
_TAGS: Rule = (
    (lambda v: isinstance(v, (tuple, list)) and all(is_text(tag) and 0 < len(tag) <= 64 for tag in v)),
    "a tuple of texts of 1 to 64 characters",
)
_RATE = _number(0, 1, below=True)
_PART: Rule = (lambda v: _RATE[0](v) and v > 0, "a number above 0 and below 1")
_MOST_NETWORKS = 1024  # of one run
_MOST_STEPS = 2**31 - 1  # that the step's counter holds

RULES: dict[str, Rule] = {
    "seed": _whole(0, 2**32 - 1),
    "num_seeds": _whole(1, _MOST_NETWORKS),
    "seeds_per_call": _whole(0, 10**6),
    "fixed": (
        lambda v: isinstance(v, (tuple, list)) and sorted(map(str, v)) == sorted({*members.SOURCES} & {*map(str, v)}),
        f"a tuple of different names of {', '.join(members.SOURCES)}; () = none",
    ),
    "init_from": (
        is_text,
        "a .keras or .weights.h5 file of the Keras example, a run's directory, or one of its checkpoints; empty = none",
    ),
    "matmul_precision": _choice(*experiment.MATMUL_PRECISIONS),
    "deterministic": _FLAG,
    "data.name": _NAME,
    "data.dir": _TEXT,
    "data.image_size": _whole(0, 4096),
    "data.streaming": _choice("auto", "always", "never"),
    "data.validation_fraction": _PART,
    "data.test_fraction": _PART,
    "data.train_limit": _whole(0, 10**9),
    "data.eval_limit": _whole(0, 10**9),
    "model.attention": _choice(*ATTENTIONS),
    "model.patch_size": _whole(1, 1024),
    "model.dim": _whole(1, 16384),
    "model.depth": _whole(0, 1000),
    "model.mlp_dim": _whole(1, 65536),
    "model.num_heads": _whole(1, 1024),
    "model.head_dim": _whole(0, 16384),
    "model.key_source": _choice(*SOURCES),
    "model.value_source": _choice(*SOURCES),
    "model.dim_coefficient": _whole(1, 1024),
    "model.memory_size": _whole(0, 65536),
    "model.normalization": _choice(*NORMALIZATIONS),
    "model.memory_bias": _FLAG,
    "model.tie_memories": _FLAG,
    "model.share_memories": _FLAG,
    "model.mixing_seed": _whole(0, 2**32 - 1),
    "model.conv_dim": _whole(0, 65536),
    "model.attention_dropout": _RATE,
    "model.projection_dropout": _RATE,
    "model.mlp_dropout": _RATE,
    "model.gelu": _choice(*model.GELUS),
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
    "inspect.every_epochs": _whole(0, 10**6),
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


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dict as one level of dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


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
    _validate_attention(config.model, tokens=4)
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
    if config.optimizer.warmup_epochs > config.train.epochs:
        raise UserError(
            f"config.optimizer.warmup_epochs={config.optimizer.warmup_epochs} is longer than the run; "
            f"accepted: at most config.train.epochs={config.train.epochs}"
        )


def _validate_attention(config: ml_collections.ConfigDict, tokens: int) -> None:
    """Let the attention of `config.model` itself say which of its sizes do not fit: trace one layer of it."""
    try:
        _trace_attention(ml_collections.FrozenConfigDict(config), tokens)
    except ValueError as error:
        field = re.match(r"(\w+)=", str(error))
        if not field or field[1] not in config:
            raise
        raise UserError(f"config.model.{error} of config.model.dim={config.dim}") from error


@functools.lru_cache
def _trace_attention(config: ml_collections.FrozenConfigDict, tokens: int) -> None:
    attention = model.make_attention(config)
    if attention is not None:
        x = jax.ShapeDtypeStruct((1, tokens, config.dim), jnp.float32)
        jax.eval_shape(lambda x: attention().init(jax.random.key(0), x), x)


def validate_for_images(config: ml_collections.ConfigDict, image_shape: tuple[int, ...]) -> None:
    """Raise UserError if the network does not fit images of [height, width, channels]."""
    side, patch = image_shape[0], config.model.patch_size
    if side % patch:
        raise UserError(
            f"config.model.patch_size={patch} does not divide the {side}×{side} images of {config.data.name}"
        )
    _validate_attention(config.model, tokens=(side // patch) ** 2)


def validate_for_data(config: ml_collections.ConfigDict, image_shape: tuple[int, ...], train_examples: int) -> None:
    """Raise UserError if the configuration does not fit the images, their number or the devices' memory.

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
    """Raise UserError if the run cannot fit into memory, before the system kills it without a message."""
    networks = len(members.members_from_config(config.to_dict()))
    share = networks // math.gcd(networks, jax.device_count())  # of a device; the seed axis of the mesh has the rest
    images = config.train.microbatch or 1  # 0 is chosen by platform
    needed, there = footprint.least_bytes(config.model, image_shape, share, images), footprint.device_bytes()
    if needed > there:
        count = footprint.Footprint(model.build_model(config.model, 1), image_shape).parameters
        sizes = ", ".join(f"{name}={config.model[name]}" for name in ("dim", "depth", "mlp_dim", "num_heads"))
        raise UserError(
            f"config.model ({sizes}) takes at least {needed / 2**30:,.1f} GiB a device for {share} times more than "
            f"{count:,} parameters, their gradients and moments, and the activations of {images} "
            f"image{'s' * (images > 1)}; accepted: sizes that fit into {there / 2**30:,.1f} GiB"
        )
