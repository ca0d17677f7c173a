"""Any configuration either trains two steps or is refused in one line, before anything is written."""

import json
import math
import pathlib
import re
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs import digits
from eanet import train
from eanet.config import rules
from eanet.errors import UserError
from helpers.tiny import set_field

_ODD = st.sampled_from(
    [-1, 0, 2**70, 0.5, -0.0, 5e-324, 1e308, math.nan, math.inf, -math.inf, "", "1", True, None, (), (1,)]
)
_TEXT = st.text(max_size=20)
_RATE = st.floats(0, 1, exclude_max=True)


def _size(*values):
    return st.sampled_from(values)


def _several(values, most=1):
    return st.lists(values, max_size=most, unique=True).map(tuple)


# What each field takes, or nearly: sizes of which a network compiles in seconds. Two steps an epoch, of one epoch.
_FIELDS = {
    "seed": st.integers(0, 2**32 - 1),
    "num_seeds": _size(1, 1, 1, 2),
    "fixed": _several(_size("init", "order", "augment", "dropout"), 4),
    "seeds_per_call": _size(0, 1, 2, 10**6),
    "init_from": st.just(""),
    "matmul_precision": st.sampled_from(["float32", "tensorfloat32", "bfloat16"]),
    "deterministic": st.booleans(),
    "data.name": st.just("digits"),
    "data.dir": _TEXT,
    "data.eval_limit": _size(0, 1, 100),
    "data.image_size": _size(0, 0, 0, 16),  # the digits keep theirs
    "data.streaming": _size("auto", "always", "never"),
    "data.test_fraction": st.floats(0, 1, exclude_min=True, exclude_max=True),
    "data.validation_fraction": st.floats(0, 1, exclude_min=True, exclude_max=True),
    "model.attention": _size("external", "self", "induced", "linear", "random", "conv", "none"),
    "model.patch_size": _size(2, 4, 8, 3),
    "model.dim": _size(1, 6, 8, 16),
    "model.depth": _size(0, 1, 2),
    "model.mlp_dim": _size(1, 8, 16),
    "model.num_heads": _size(1, 2, 4, 3),
    "model.head_dim": _size(0, 1, 8),
    "model.key_source": _size("input", "learned"),
    "model.value_source": _size("input", "learned"),
    "model.dim_coefficient": _size(1, 2, 4),
    "model.memory_size": _size(0, 1, 5),
    "model.normalization": _size("double", "tokens", "slots", "l2_gelu"),
    "model.mixing_seed": _size(0, 1, 2**32 - 1),
    "model.conv_dim": _size(0, 1, 5),
    "model.memory_bias": st.booleans(),
    "model.tie_memories": st.booleans(),
    "model.share_memories": st.booleans(),
    "model.attention_dropout": _RATE,
    "model.projection_dropout": _RATE,
    "model.mlp_dropout": _RATE,
    "model.gelu": _size("tanh", "erf"),
    "model.dtype": _size("float32", "bfloat16"),
    "augment.flip": st.booleans(),
    "augment.rotation": st.floats(0, 0.5),
    "augment.contrast": _RATE,
    "augment.contrast_upward": st.booleans(),
    "augment.contrast_per_batch": st.booleans(),
    "augment.contrast_clip": st.booleans(),
    "augment.zoom": _RATE,
    "optimizer.learning_rate": st.floats(0, 1000, exclude_min=True),
    "optimizer.weight_decay": st.floats(0, 1000),
    "optimizer.variant": _size("optax", "keras"),
    "optimizer.schedule": _size("constant", "cosine"),
    "optimizer.warmup_epochs": st.floats(0, 1.5),
    "optimizer.clip_norm": st.floats(0, 1e9),
    "train.batch_size": _size(1, 7, 16),
    "train.microbatch": _size(0, 1, 4, 8),
    "train.label_smoothing": _RATE,
    "train.steps_per_call": _size(0, 1, 10**9),
    "guard.input_difference": st.floats(1e-4, 1e9),
    "guard.zeros": st.floats(0, 1),
    "guard.mean": st.floats(0, 1e9),
    "guard.loss": st.floats(1, 1e38),
    "guard.deviation": st.floats(0, 1e9),
    "checkpoint.every_epochs": _size(1, 2, 10**6),
    "checkpoint.keep": _size(1, 10**6),
    "inspect.every_epochs": _size(0, 2, 10**6),
    "wandb.project": _TEXT,
    "wandb.entity": _TEXT,
    "wandb.group": _TEXT,
    "wandb.job_type": _TEXT,
    "wandb.tags": st.lists(_TEXT, max_size=2).map(tuple),
    "vary.learning_rate": _several(st.floats(0, 1000), 2),
    "vary.weight_decay": _several(st.floats(0, 1000)),
    "vary.label_smoothing": _several(_RATE, 2),
}
_FIXED = {"train.epochs": 1, "wandb.mode": "disabled", "data.train_limit": 0}  # the last follows from the batch


@st.composite
def _configs(draw):
    """Return configs/digits.py, small, with some fields drawn; sometimes one of them has a value of any kind."""
    config = digits.get_config()
    chosen = draw(st.sets(st.sampled_from(sorted(_FIELDS)), max_size=12))
    values = {"model.dim": 8, "model.depth": 1, "model.mlp_dim": 8, "model.patch_size": 4, "train.batch_size": 8}
    values |= {field: draw(_FIELDS[field]) for field in sorted(chosen)} | _FIXED
    if draw(st.integers(0, 3)) == 0:
        values[draw(st.sampled_from(sorted(rules.RULES.keys() - _FIXED.keys())))] = draw(_ODD)
    batch = values["train.batch_size"]
    values["data.train_limit"] = 2 * batch if type(batch) is int and 0 < batch < 100 else 16
    for field, value in values.items():
        set_field(config, field, value)
    return config


def _check(config):
    """A loss that is not finite is an outcome too: a wild learning rate has it, and the run says at which step."""
    with tempfile.TemporaryDirectory() as directory:
        workdir = pathlib.Path(directory, "run")
        try:
            train.train(config, workdir)
        except UserError as error:
            message = str(error)
            assert "\n" not in message
            if error.exit_code == 2:
                assert "config." in message and not workdir.exists()
            else:
                diverged = r"(not finite|guessing \(config\.guard\.loss\)) (at|after) step|test loss .*is "
                assert re.search(diverged, message) and workdir.exists()
        else:
            assert json.loads((workdir / "results.json").read_text())["steps"] == 2


def test_every_field_is_drawn():
    assert _FIELDS.keys() | _FIXED.keys() == rules.RULES.keys()


_OPTIONS = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.system
@settings(max_examples=8, derandomize=True, database=None, **_OPTIONS)
@given(_configs())
def test_a_configuration_trains_or_is_refused(config):
    _check(config)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=300, **_OPTIONS)
@given(_configs())
def test_many_configurations_train_or_are_refused(config):
    _check(config)
