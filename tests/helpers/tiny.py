"""The smallest run that still has every part: two epochs on digits, the last batch of each ragged."""

import pytest

from configs import default, digits
from eanet import train
from eanet.errors import UserError


def tiny_config(**overrides):
    """Return digits at toy size; keys are dotted fields with __ for the dot, train__epochs=1 say."""
    config = digits.get_config()
    fields = {
        "data__train_limit": 100,
        "model__dim": 16,
        "model__mlp_dim": 16,
        "model__depth": 1,
        "model__patch_size": 4,
        "train__batch_size": 32,
        "train__epochs": 2,
        "checkpoint__every_epochs": 1,
        "wandb__mode": "disabled",
    }
    for name, value in (fields | overrides).items():
        set_field(config, name.replace("__", "."), value)
    return config


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
