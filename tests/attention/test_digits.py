"""Every arm learns the handwritten digits with the network of its own config file. On a CPU a minute or two each."""

import importlib

import pytest

from configs import digits
from eanet import train

# (config file, its arguments). Attentions that do not learn how to mix tokens are tried but need not reach 90%.
_ARMS = [
    ("eanet", ()),
    *(("vit", (heads,)) for heads in ("4x64", "4x32")),
    *(("learned", (which,)) for which in ("key", "value", "both")),
    *((name, ()) for name in ("induced", "linear", "conv", "random", "none")),
]


def config_of(name, arguments):
    """Return the arm with everything but the network from configs/digits.py."""
    config, example = importlib.import_module(f"configs.{name}").get_config(*arguments), digits.get_config()
    for part in ("data", "augment", "optimizer", "train", "checkpoint"):
        config[part] = example[part]
    config.wandb.mode = "disabled"
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name, arguments", _ARMS, ids=str)
def test_the_network_of_every_config_file_learns_the_digits(name, arguments, tmp_path, record_property):
    results = train.train(config_of(name, arguments), tmp_path)
    record_property("accuracy", results["test/accuracy"])
    print(f"{name} {arguments}: {results['test/accuracy']:.2%}")
    assert results["test/accuracy"] > (0.5 if name in ("random", "none") else 0.9)
