"""Every rule of the configuration: what is refused, in which words, and which fields make a run another run."""

import importlib
import pathlib

import pytest

from configs import default, learned, vit
from eanet.config import rules, stored
from eanet.errors import UserError
from eanet.model import footprint
from eanet.model.vision_transformer import build_model
from helpers.tiny import set_field

CONFIG_FILES = sorted(
    path.stem for path in pathlib.Path(__file__).parents[2].joinpath("configs").glob("*.py") if path.stem != "__init__"
)

BAD_VALUES = [
    ("seed", -1),
    ("seed", 2**32),
    ("seed", 1.0),
    ("seed", True),
    ("seed", "0"),
    ("num_seeds", 0),
    ("fixed", ("init", "init")),
    ("fixed", ("batch",)),
    ("fixed", (("init",),)),
    ("fixed", "init"),
    ("data.name", ""),
    ("data.name", 7),
    ("data.dir", 0),
    ("data.validation_fraction", 0.0),
    ("data.validation_fraction", 1.0),
    ("data.validation_fraction", -0.2),
    ("data.validation_fraction", float("nan")),
    ("data.image_size", -1),
    ("data.test_fraction", 1.0),
    ("data.streaming", True),
    ("data.train_limit", -1),
    ("data.train_limit", 0.5),
    ("data.eval_limit", -1),
    ("guard.loss", 0.0),
    ("model.attention", "softmax"),
    ("model.attention", ""),
    ("model.attention", 1),
    ("model.patch_size", 0),
    ("model.dim", 0),
    ("model.dim", 64.0),
    ("model.depth", -1),
    ("model.mlp_dim", 0),
    ("model.num_heads", 0),
    ("model.num_heads", False),
    ("model.head_dim", -1),
    ("model.dim_coefficient", 0),
    ("model.memory_size", -16),
    ("model.normalization", "softmax"),
    ("model.key_source", "tokens"),
    ("model.value_source", ""),
    ("model.mixing_seed", -1),
    ("model.conv_dim", 1.5),
    ("model.memory_bias", 1),
    ("model.tie_memories", "True"),
    ("model.share_memories", 0),
    ("model.attention_dropout", 1.0),
    ("model.attention_dropout", -0.1),
    ("model.projection_dropout", float("inf")),
    ("model.mlp_dropout", "0.2"),
    ("model.gelu", "exact"),
    ("model.dtype", "float16"),
    ("augment.flip", 0.5),
    ("augment.rotation", 0.6),
    ("augment.rotation", -0.1),
    ("augment.contrast", 1.0),
    ("augment.contrast_upward", 1),
    ("augment.contrast_per_batch", 0.5),
    ("augment.contrast_clip", "yes"),
    ("augment.zoom", 1.0),
    ("augment.zoom", float("nan")),
    ("optimizer.learning_rate", 0.0),
    ("optimizer.learning_rate", -1e-3),
    ("optimizer.learning_rate", float("nan")),
    ("optimizer.learning_rate", 1001.0),
    ("optimizer.weight_decay", -1e-4),
    ("optimizer.weight_decay", "1e-4"),
    ("optimizer.variant", "adam"),
    ("optimizer.schedule", "linear"),
    ("optimizer.warmup_epochs", -1.0),
    ("optimizer.clip_norm", float("inf")),
    ("train.batch_size", 0),
    ("train.batch_size", 128.0),
    ("train.epochs", 0),
    ("train.label_smoothing", 1.0),
    ("train.label_smoothing", -0.1),
    ("train.steps_per_call", -1),
    ("guard.input_difference", -1.0),
    ("guard.zeros", 1.5),
    ("guard.mean", float("nan")),
    ("guard.deviation", "0.2"),
    ("checkpoint.every_epochs", 0),
    ("checkpoint.every_epochs", True),
    ("checkpoint.keep", 0),
    ("inspect.every_epochs", -1),
    ("wandb.mode", "on"),
    ("wandb.mode", True),
    ("wandb.project", ""),
    ("wandb.entity", 1),
    ("wandb.group", False),
    ("wandb.job_type", 0),
    ("wandb.tags", "tag"),
    ("wandb.tags", ("",)),
    ("wandb.tags", ("x" * 65,)),
    ("wandb.tags", (1,)),
    ("train.microbatch", -1),
    ("train.microbatch", 8.0),
    ("data.dir", "two\nlines"),
    ("wandb.group", "\x1b"),
    ("wandb.tags", ("\udcff",)),
    ("vary.weight_decay", (10**400,)),
    ("vary.weight_decay", (float("nan"),)),
    ("vary.label_smoothing", (0.1, 0.1)),
    ("vary.label_smoothing", (1.0,)),
    ("vary.label_smoothing", ("x",)),
    ("vary.learning_rate", (1e-3, 0.0)),
]


def changed(field, value):
    """The default with one field set."""
    config = default.get_config()
    set_field(config, field, value)
    return config


def message(config):
    with pytest.raises(UserError) as error:
        rules.validate(config)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("field, value", BAD_VALUES, ids=[f"{field}={value!r}"[:50] for field, value in BAD_VALUES])
def test_bad_value_is_refused_with_field_value_and_what_is_accepted(field, value):
    rules.validate(default.get_config())  # so it is this one value that is refused
    text = message(changed(field, value))
    assert text == f"config.{field}={value!r}; accepted: {rules.RULES[field][1]}"


def test_words_of_a_rule_say_what_it_checks():
    assert rules.RULES["model.attention"][1] == "external or self or induced or linear or random or conv or none"
    assert rules.RULES["augment.rotation"][1] == "a number from 0 to 0.5"
    assert rules.RULES["augment.zoom"][1] == "a number from 0 to below 1"
    assert rules.RULES["train.batch_size"][1] == "a whole number from 1 to 1000000"


@pytest.mark.parametrize(
    "field, value",
    [
        ("seed", 2**32 - 1),
        ("optimizer.learning_rate", 1),
        ("model.depth", 0),
        ("model.mlp_dropout", 0),
        ("augment.rotation", 0.5),
        ("wandb.tags", ("a", "x" * 64)),
        ("optimizer.warmup_epochs", 50.0),
        ("data.validation_fraction", 0.999),
    ],
)
def test_limits_themselves_are_accepted(field, value):
    rules.validate(changed(field, value))


def test_every_rule_has_its_field_and_every_field_its_rule():
    assert rules.flatten(default.get_config().to_dict()).keys() == rules.RULES.keys()


@pytest.mark.parametrize("field", rules.RULES)
def test_missing_field_is_named(field):
    config = default.get_config()
    *groups, name = field.split(".")
    del (config[groups[0]] if groups else config)[name]
    text = message(config)
    assert f"config.{field} is missing" in text and rules.RULES[field][1] in text


def test_unknown_field_is_named():
    assert message(changed("model.width", 3)) == "config.model.width=3: no such field"
    assert message(changed("momentum", 0.9)) == "config.momentum=0.9: no such field"


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"num_heads": 3}, ("model.num_heads=3", "model.dim=64")),
        ({"dim_coefficient": 3}, ("model.dim_coefficient=3", "model.dim=64")),
        ({"attention": "self", "num_heads": 3, "head_dim": 0}, ("model.num_heads=3", "model.dim=64")),
    ],
    ids=str,
)
def test_sizes_that_do_not_divide_are_named(fields, words):
    config = default.get_config()
    config.model.update(fields)
    text = message(config)
    assert all(word in text for word in words)


@pytest.mark.parametrize(
    "fields",
    [
        {"attention": "self", "num_heads": 3},  # heads of a width of their own
        {"attention": "self", "dim_coefficient": 3},
        {"attention": "none", "num_heads": 3, "dim_coefficient": 3, "head_dim": 0},
        {"dim_coefficient": 3, "memory_size": 16},
    ],
    ids=str,
)
def test_sizes_that_nobody_divides_are_accepted(fields):
    config = default.get_config()
    config.model.update(fields)
    rules.validate(config)


def test_warm_up_longer_than_the_run_is_refused():
    text = message(changed("optimizer.warmup_epochs", 51.0))
    assert "optimizer.warmup_epochs=51.0" in text and "train.epochs=50" in text


def test_a_micro_batch_divides_the_batch():
    text = message(changed("train.microbatch", 48))
    assert text == "config.train.microbatch=48 does not divide config.train.batch_size=128"
    rules.validate(changed("train.microbatch", 32))


def test_config_must_fit_the_data():
    config = default.get_config()
    rules.validate_for_data(config, (32, 32, 3), 128)
    with pytest.raises(UserError, match="patch_size=2.*33×33.*cifar100"):
        rules.validate_for_data(config, (33, 33, 3), 128)
    with pytest.raises(UserError, match="batch_size=128.*at most 127"):
        rules.validate_for_data(config, (32, 32, 3), 127)


def test_steps_must_be_countable():
    config = default.get_config()
    config.train.batch_size, config.train.epochs = 1, 53687
    rules.validate_for_data(config, (32, 32, 3), 40_000)
    config.train.epochs = 53688
    with pytest.raises(UserError, match=r"config\.train\.epochs=53688 of 40000 steps.*accepted: at most 53687"):
        rules.validate_for_data(config, (32, 32, 3), 40_000)


def test_seeds_times_the_grid_are_limited():
    config = default.get_config()
    config.num_seeds, config.vary.learning_rate, config.vary.label_smoothing = 256, (1e-3, 1e-4), (0.0, 0.1)
    rules.validate(config)
    config.num_seeds = 257
    assert "config.num_seeds=257 with each of the 4 points" in message(config)


def test_seeds_end_at_the_last_one():
    config = default.get_config()
    config.num_seeds, config.seed = 2, 2**32 - 2
    rules.validate(config)
    config.seed += 1
    assert message(config).startswith("config.num_seeds=2 from config.seed=4294967295 on; accepted: up to seed")


def test_a_network_must_fit_the_memory(monkeypatch):
    """361,380 parameters of 16 bytes each, a classifier apart, and little else at one image."""
    config = default.get_config()
    least = footprint.least_bytes(config.model, (32, 32, 3), 1, 1)
    monkeypatch.setattr(footprint, "device_bytes", lambda: least)
    rules.validate_for_data(config, (32, 32, 3), 40_000)
    for field, value in (("model.dim", 128), ("num_seeds", 2), ("train.microbatch", 2)):
        changed_config = changed(field, value)
        with pytest.raises(UserError, match=r"config\.model \(dim=.*GiB a device.*accepted: sizes that fit"):
            rules.validate_for_data(changed_config, (32, 32, 3), 40_000)


def test_a_record_that_is_no_configuration_is_refused():
    fields = default.get_config().to_dict()
    assert stored.from_record(fields, "config.json").to_dict() == fields
    for content in ([fields], "text", 3, {}, {"model.dim": 3}, {"seed": 0, "model": 3}, fields | {"train": 3}):
        with pytest.raises(UserError, match=r"^here/config\.json"):
            stored.from_record(content, "here/config.json")


@pytest.mark.parametrize(
    "arm, sources", [("key", ("learned", "input")), ("value", ("input", "learned")), ("both", ("learned", "learned"))]
)
def test_learned_keys_and_values_are_chosen_by_the_argument(arm, sources):
    config, unchanged = learned.get_config(arm), vit.get_config("4x32")
    assert (config.model.key_source, config.model.value_source) == sources
    config.model.key_source = config.model.value_source = "input"
    assert config.to_dict() == unchanged.to_dict()


def test_all_config_files_are_found():
    assert {"default", "eanet", "vit", "digits"} <= set(CONFIG_FILES)


def every_arm():
    """Return (file, its arguments): a file with ARMS takes one of them, `configs/FILE.py:ARM` on the command line."""
    for file in CONFIG_FILES:
        arms = getattr(importlib.import_module(f"configs.{file}"), "ARMS", ())
        yield from [(file, ())] + [(file, (arm,)) for arm in arms]


@pytest.mark.parametrize("file, arguments", list(every_arm()), ids=str)
def test_config_file_loads_validates_and_builds(file, arguments):
    module = importlib.import_module(f"configs.{file}")
    assert module.__doc__ and module.get_config.__doc__
    config = module.get_config(*arguments)
    rules.validate(config)
    build_model(config.model, num_classes=10)
    # A second call gives a fresh one: nobody's override may leak into the next.
    module.get_config(*arguments).model.depth = 3
    assert module.get_config(*arguments).to_dict() == config.to_dict()
