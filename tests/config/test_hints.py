"""What an error says of the field that was meant, and of the line of a configuration file."""

import pytest

from eanet import cli
from eanet.config import hints
from eanet.config.rules import RULES
from eanet.errors import UserError

_FILE = """from configs import digits


def get_config():
    config = digits.get_config()
    {}
    return config
"""

MEANT = {
    "optimizer.lr": "optimizer.learning_rate",
    "lr": "optimizer.learning_rate",
    "learning_rate": "optimizer.learning_rate",
    "train.learning_rate": "optimizer.learning_rate",
    "optimizer.learnig_rate": "optimizer.learning_rate",
    "vary.lr": "vary.learning_rate",
    "vary.weight_deacy": "vary.weight_decay",
    "wd": "optimizer.weight_decay",
    "bs": "train.batch_size",
    "batch": "train.batch_size",
    "train.batchsize": "train.batch_size",
    "train_batch_size": "train.batch_size",
    "heads": "model.num_heads",
    "model.num_head": "model.num_heads",
    "modle.num_heads": "model.num_heads",
    "model.dmi": "model.dim",
    "model.layers": "model.depth",
    "model.mlp.dropout": "model.mlp_dropout",
    "slots": "model.memory_size",
    "attention": "model.attention",
    "epoch": "train.epochs",
    "num_epochs": "train.epochs",
    "warmup": "optimizer.warmup_epochs",
    "warmup_steps": "optimizer.warmup_epochs",
    "smoothing": "train.label_smoothing",
    "seeds": "num_seeds",
    "Seed": "seed",
    "clip": "optimizer.clip_norm",
    "dataset": "data.name",
    "data_dir": "data.dir",
    "train_limit": "data.train_limit",
    "mode": "wandb.mode",
    "augment.rotate": "augment.rotation",
    "checkpoint.every": "checkpoint.every_epochs",
}


@pytest.mark.parametrize("typed", MEANT)
def test_the_field_that_was_meant_is_named(typed):
    assert typed not in RULES and MEANT[typed] in RULES
    assert hints.meant(typed) == f"; did you mean config.{MEANT[typed]}?"


def test_several_fields_that_are_as_near_are_all_named():
    *two, last = (f"config.model.{place}_dropout" for place in ("attention", "projection", "mlp"))
    assert hints.meant("model.dropout") == f"; did you mean {', '.join(two)} or {last}?"


@pytest.mark.parametrize(
    "typed", ["optimizer.momentum", "model.num_classes", "wandb.name", "optimizer.name", "nothing.at.all", "__class__"]
)
def test_no_field_is_named_that_means_something_else(typed):
    assert hints.meant(typed) == "; --help lists the fields"


@pytest.mark.parametrize("typed", ["model", "modle"])
def test_a_group_is_no_field(typed):
    assert hints.meant(typed) == "; did you mean one of config.model.*? --help lists them"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("config.model.num_head = 3", "config.model.num_head=3: no such field; did you mean config.model.num_heads?"),
        ("config.lock(); config.optimizer.lr = 3", "no such field; did you mean config.optimizer.learning_rate?"),
        ("config.modle.num_heads = 3", "no such field; did you mean config.model.num_heads?"),
        ("config['moedl']['dim'] = 3", "no such field; did you mean one of config.model.*?"),
        ("config.model.num_heads = 'x'", "config.model.num_heads = 'x': accepted: a whole number from 1 to 1024"),
        ("config.model.num_heads = heads", "NameError: name 'heads' is not defined"),
        ("config.model.num_heads = = 3", "SyntaxError: invalid syntax"),
        ("open('nothing')", "FileNotFoundError"),
        ("int('x')", "ValueError: invalid literal"),
        ("{}['model']", "KeyError: 'model'"),
    ],
)
def test_what_is_wrong_in_a_configuration_file_is_said_with_its_line(tmp_path, line, says):
    path = tmp_path / "mine.py"
    path.write_text(_FILE.replace("{}", line))
    with pytest.raises(UserError) as error:
        cli.read_config([f"--config={path}"])
    message = str(error.value)
    assert says in message and f"{path}, line 6" in message, message
    assert "\n" not in message and "<class" not in message and "config is locked" not in message


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--config.augment.flip=yes", "--config.augment.flip=yes; accepted: True or False"),
        ("--config.seed=x", "--config.seed=x; accepted: a whole number from 0 to 4294967295"),
        ("--config.train.epochs=", "--config.train.epochs=; accepted: a whole number from 1 to 1000000"),
        ("--config.model.mlp_dropout=a:b", "--config.model.mlp_dropout=a:b; accepted: a number from 0 to below 1"),
        ("--config.model.dim", "--config.model.dim has no value; accepted: a whole number from 1 to 16384"),
        ("--noconfig.augment.flip=1", "--noconfig.augment.flip=1: --noconfig.FIELD sets a field that is True or False"),
        ("--noconfig.seed", "--noconfig.seed: --noconfig.FIELD sets a field that is True or False"),
        ("--workdir", "--workdir has no value; --help lists the flags"),
        ("--wrkdir=x", "--wrkdir: no such flag; did you mean --workdir? --help lists the flags"),
    ],
)
def test_a_bad_flag_is_told_in_our_words_and_not_in_the_libraries(argument, says):
    with pytest.raises(UserError) as error:
        cli.read_config(["--config=configs/digits.py", argument])
    assert str(error.value).startswith(says)
