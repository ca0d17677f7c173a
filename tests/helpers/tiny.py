"""The smallest run that still has every part: two epochs on digits, the last batch of each ragged."""

import pytest

from configs import default, digits
from eanet import train
from eanet.errors import UserError

SIZES = {
    "data.train_limit": 100,
    "model.dim": 16,
    "model.mlp_dim": 16,
    "model.depth": 1,
    "model.patch_size": 4,
    "train.batch_size": 32,
}


def tiny_config(**overrides):
    """Return digits at toy size; keys are dotted fields with __ for the dot, train__epochs=1 say."""
    config = digits.get_config()
    fields = SIZES | {"train.epochs": 2, "checkpoint.every_epochs": 1, "wandb.mode": "disabled"}
    fields |= {name.replace("__", "."): value for name, value in overrides.items()}
    for field, value in fields.items():
        set_field(config, field, value)
    return config


def flags(fields):
    """Return fields as they stand on a command line."""
    return tuple(f"--config.{field}={value}" for field, value in fields.items())


def set_field(config, field, value):
    """Set a dotted field past ml_collections' own check of types, which a configuration file can avoid too."""
    *groups, name = field.split(".")
    group = config
    for part in groups:
        group = group[part]
    with group.ignore_type():
        group[name] = value


def refused(config, workdir):
    """Return what is said of initial weights that do not fit; nothing may have been written."""
    with pytest.raises(UserError) as caught:
        train.train(config, workdir)
    message = str(caught.value)
    assert not workdir.exists() and caught.value.exit_code == 2 and "\n" not in message
    assert message.startswith(f"config.init_from={config.init_from}: ") and "; accepted: a .keras" in message
    return message


def data_settings(directory="", **fields):
    """Return the default data settings, CIFAR-100, with a TFDS directory and other fields."""
    config = default.get_config().data
    config.update({"dir": str(directory)} | fields)
    return config


def fail(*args, **kwargs):
    """Stand in for what must not be called."""
    raise AssertionError("this must not be called")
