"""Every sweep file, rendered as W&B's own agent renders it, gives the configurations it names; bad files say why."""

import collections
import itertools
import json
import pathlib
import re
import types

import pytest
import yaml

from eanet import cli
from eanet.config import rules
from eanet.errors import UserError
from eanet.sweep import file as sweep_file
from eanet.sweep import point as sweep_point
from eanet.sweep import search
from eanet.sweep import table as sweep_table
from eanet.training.members import SOURCES
from helpers.sweep_files import COMMAND, write

_ROOT = pathlib.Path(__file__).parents[2]
_NAMES = sorted(path.stem for path in (_ROOT / "sweeps").glob("*.yaml"))
# What each file promises: fields, of `model` where no other group is named, of which every combination is there once a
# seed.
_SEEDS = (0, 1, 2)
_HEADS = (1, 2, 4, 8, 16)
_PROMISED = {
    "attention": (
        _SEEDS,
        ("attention", "num_heads", "head_dim", "projection_dropout"),
        [("external", 4, 64, 0.2), *(("self", 4, width, 0.0) for width in (64, 32, 16)), ("none", 4, 64, 0.2)],
    ),
    "heads": (
        _SEEDS,
        ("attention", "num_heads", "head_dim"),
        [(kind, n, width) for kind, width in (("external", 64), ("self", 64), ("self", 0)) for n in _HEADS],
    ),
    "memory": (_SEEDS, ("attention", "memory_size"), [("external", n) for n in (4, 8, 16, 32, 64, 128, 256)]),
    "normalization": (_SEEDS, ("normalization",), [("double",), ("tokens",), ("slots",), ("l2_gelu",)]),
    "memories": (
        _SEEDS,
        ("memory_bias", "tie_memories", "share_memories", "dim_coefficient"),
        list(itertools.product((True, False), (True, False), (True, False), (1, 2, 4, 8))),
    ),
    "reduced": (
        (0, 1),
        ("attention", "num_heads", "patch_size"),
        [(kind, n, 4) for kind in ("external", "self") for n in (2, 4)],
    ),
    "compact": (
        tuple(range(5)),
        ("attention", "head_dim", "projection_dropout", "patch_size", "train.epochs"),
        [("external", 64, 0.2, 4, 50), ("self", 32, 0.0, 4, 50), ("none", 64, 0.2, 4, 50)],
    ),
    "baselines": (
        _SEEDS,
        ("attention", "head_dim", "conv_dim", "projection_dropout", "mixing_seed"),
        [
            ("external", 64, 0, 0.2, 0),
            ("self", 32, 0, 0.0, 0),
            ("induced", 16, 0, 0.2, 0),
            ("linear", 32, 0, 0.2, 0),
            ("random", 64, 0, 0.2, 0),
            ("conv", 64, 241, 0.2, 0),
            ("none", 64, 0, 0.2, 0),
        ],
    ),
    "factorial": (
        _SEEDS,
        ("attention", "head_dim", "key_source", "value_source"),
        [("self", 32, *sources) for sources in itertools.product(("input", "learned"), repeat=2)],
    ),
    "variance": (
        (0,),
        ("attention", "num_seeds", "fixed"),
        [("external", 10, fixed) for fixed in ((), *itertools.combinations(SOURCES, 3))],
    ),
    "digits": (
        tuple(range(5)),
        ("attention", "num_heads", "head_dim"),
        [(kind, 4, 16) for kind in ("external", "self", "none")],
    ),
    "recipe": (
        _SEEDS,
        ("attention", "head_dim", "optimizer.schedule", "optimizer.warmup_epochs", "optimizer.clip_norm"),
        [
            (*attention, *recipe)
            for attention in (("external", 64), ("self", 16))
            for recipe in itertools.product(("constant", "cosine"), (0.0, 5.0), (0.0, 1.0))
        ],
    ),
    "reproduction": (
        _SEEDS,
        ("attention", "gelu", "augment.contrast_clip", "optimizer.variant", "optimizer.weight_decay", "train.epochs"),
        [
            (kind, *example, 50)
            for kind in ("external", "self")
            for example in (
                ("erf", False, "keras", 0.1),  # 2021
                ("tanh", True, "keras", 1e-4),  # the Keras 3 page
                ("tanh", False, "optax", 1e-4),
            )
        ],
    ),
    "clip": (
        (0,),
        ("attention", "augment.contrast_upward", "augment.contrast_clip", "data.train_limit", "train.epochs"),
        [("external", True, clip, 20_000, 3) for clip in (True, False)],
    ),
}


@pytest.fixture
def agent(monkeypatch, tmp_path):
    """W&B's agent, as far as it renders: gives a function from a file's contents and a point to the command."""
    from wandb import wandb_agent

    monkeypatch.chdir(_ROOT)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))  # it writes the point's values there
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # restored afterwards, as the agent sets them
    started = []

    def keep(command, env, forward_signals):
        started.append(command)
        return types.SimpleNamespace()

    monkeypatch.setattr(wandb_agent, "AgentProcess", keep)

    def render(content, values):
        own = wandb_agent.Agent.__new__(wandb_agent.Agent)  # without asking the server for anything
        own._in_jupyter = own._function = own._forward_signals = None
        own._run_processes, own._sweep_command = {}, list(content["command"])
        arguments = {name: {"value": value} for name, value in values.items()}
        command = {"type": "run", "run_id": "run1", "program": content["program"], "args": arguments}
        own._command_run(json.loads(json.dumps(command)))  # as it comes from the server
        return started.pop()

    return render


def _content(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _wandb_points(content):
    """Return every point of a grid without eanet's help, nested parameters as one value."""

    def values(spec):
        if "parameters" in spec:
            return [dict(point) for point in _wandb_points(spec)]
        return spec["values"] if "values" in spec else [spec["value"]]

    names = content["parameters"]
    return [dict(zip(names, point, strict=True)) for point in itertools.product(*map(values, names.values()))]


def _flags(command, program):
    return command[command.index(program) + 1 :]


def _check_rendered(render, content, points):
    """Compare value by value what arrives in the configuration; gives the configurations."""
    made = []
    for point in points:
        for values in (point, dict(sorted(point.items()))):
            command = render(content, values)
            assert command[:3] == ["/usr/bin/env", "python", content["program"]]
            file, config = cli.read_config(_flags(command, content["program"]))
            sweep_point.check_values(values, file, config.to_dict())
        made.append(config)
    return made


@pytest.mark.parametrize("name", _NAMES)
def test_every_point_arrives_as_the_file_says(name, agent):
    path = _ROOT / "sweeps" / f"{name}.yaml"
    content, loaded = _content(path), sweep_file.load(path)
    points = (search.grid if loaded.method == "grid" else search.random)(loaded)
    if loaded.method == "grid":
        assert points == _wandb_points(content)
    configs = _check_rendered(agent, content, points)
    for point, config in zip(points, configs, strict=True):
        ours = loaded.arguments(point)
        assert _flags(ours, "main.py") == _flags(agent(content, point), "main.py")
        assert sweep_point.make_point(loaded, point, [], pathlib.Path("runs")).config == config.to_dict()
    made = [sweep_point.make_point(loaded, point, [], pathlib.Path("runs")).workdir for point in points]
    assert len(set(made)) == len(points)


def test_a_directory_is_named_after_what_differs_between_the_points(monkeypatch, tmp_path):
    monkeypatch.chdir(_ROOT)
    parameters = {"config.model.depth": {"value": 2}, "config.seed": {"values": [3]}} | {
        "config.model.num_heads": {"values": [2, 4]}
    }
    loaded = sweep_file.load(write(tmp_path / "sweep.yaml", parameters=parameters))
    (name, _) = (sweep_point.make_point(loaded, point, [], tmp_path).workdir.name for point in search.grid(loaded))
    assert re.fullmatch("digits-num_heads=2-[0-9a-f]{8}", name)
    alone = sweep_file.load(write(tmp_path / "sweep.yaml", parameters={"config.seed": {"value": 3}}))
    (point,) = search.grid(alone)
    assert re.fullmatch("digits-[0-9a-f]{8}", sweep_point.make_point(alone, point, [], tmp_path).workdir.name)


def test_a_metric_that_is_an_accuracy_is_in_percent_and_another_is_not(capsys):
    for metric, shown in (("val/accuracy_best", "97.50%"), ("test/top5_accuracy", "97.50%"), ("val/loss", "0.9750")):
        point = types.SimpleNamespace(state="done", workdir=pathlib.Path("one"), seconds=1.0, message="")
        point.metric, point.share, point.earlier = lambda name: 0.975, lambda: 1.0, 0.0
        table = sweep_table.SweepTable("toy", metric, True, 1)
        table.settled(point)
        assert capsys.readouterr().out.startswith(f"done  one  {metric} {shown}  ")
        assert f"best {metric} {shown} (one)" in table.summary([point])


@pytest.mark.parametrize("name", _NAMES)
def test_a_file_says_its_question_its_commands_and_its_cost(name):
    path = _ROOT / "sweeps" / f"{name}.yaml"
    text, content, loaded = path.read_text(encoding="utf-8"), _content(path), sweep_file.load(path)
    top = "".join(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))
    assert re.match(r"# Question: .+\?", top.replace("\n# ", " "))
    assert f"wandb sweep sweeps/{name}.yaml && wandb agent ENTITY/{content['project']}/SWEEP\n" in top
    assert f"python -m eanet.sweep sweeps/{name}.yaml\n" in top
    points = (search.grid if loaded.method == "grid" else search.random)(loaded)
    assert f"# Cost: {len(points)} runs" in top
    assert content["metric"] == {"name": "val/accuracy_best", "goal": "maximize"}
    assert (content["name"], content["program"], content["project"]) == (name, "main.py", "eanet-jax")
    assert content["command"][:3] == COMMAND[:3] and content["command"][-1] == "${args}"


def test_the_files_ask_what_they_promise(monkeypatch):
    monkeypatch.chdir(_ROOT)
    assert set(_PROMISED) | {"optimizer"} == set(_NAMES)
    for name, (seeds, fields, expected) in _PROMISED.items():
        loaded = sweep_file.load(f"sweeps/{name}.yaml")
        configs = [cli.read_config(_flags(loaded.arguments(point), "main.py"))[1] for point in search.grid(loaded)]
        flat = [rules.flatten(config.to_dict()) for config in configs]
        names = [*(field if field in flat[0] else f"model.{field}" for field in fields), "seed"]
        got = collections.Counter(tuple(config[name] for name in names) for config in flat)
        assert got == {(*values, seed): 1 for values in expected for seed in seeds}, name


def test_the_optimizer_is_searched_at_random_and_on_log_scales():
    """The document's values lie inside of every range."""
    loaded = sweep_file.load(_ROOT / "sweeps/optimizer.yaml")
    assert (loaded.method, loaded.run_cap) == ("random", 40)
    named = {name: parameter for name, parameter in loaded.parameters.items() if not parameter.values}
    document = {"config.optimizer.learning_rate": 1e-3, "config.optimizer.weight_decay": 1e-4}
    assert {n for n, parameter in named.items() if parameter.distribution == "log_uniform_values"} == set(document)
    document |= {f"config.model.{place}_dropout": 0.2 for place in ("attention", "projection", "mlp")}
    assert all(named[name].numbers["min"] < value < named[name].numbers["max"] for name, value in document.items())
    assert set(named) == set(document)


def _swap(macro):
    return [*COMMAND[:-1], macro]


def test_a_tuple_is_written_as_text_and_arrives_as_a_tuple(tmp_path):
    written = ["()", "('init', 'order')", "('dropout',)"]
    loaded = sweep_file.load(write(tmp_path / "sweep.yaml", parameters={"config.fixed": {"values": written}}))
    made = [sweep_point.make_point(loaded, point, [], tmp_path) for point in search.grid(loaded)]
    assert [point.config["fixed"] for point in made] == [(), ("init", "order"), ("dropout",)]


_TRAPS = {
    "a dropped False": {
        "command": _swap("${args_no_boolean_flags}"),
        "parameters": {"config.model.memory_bias": {"values": [True, False]}},
    },
    "a number that YAML reads as text": {"parameters": {"config.optimizer.learning_rate": {"values": [0.01, "1e-3"]}}},
    "nested": {"parameters": {"config.model": {"parameters": {"num_heads": {"values": [2, 4]}}}}},
    "null": {"parameters": {"config.wandb.group": {"values": ["a", None]}}},
    "null alone": {"parameters": {"config.wandb.group": {"value": None}}},
    "an unknown macro": {"command": _swap("${arg}")},
    "a macro inside a text": {"command": [*COMMAND[:3], "--config=configs/${configuration}", "${args}"]},
    "arguments inside a text": {"command": _swap("--config.seed=${args}")},
    "JSON": {"command": _swap("${args_json}")},
    "a typo": {"parameters": {"config.model.num_head": {"values": [2]}}},
    "no field": {"parameters": {"seed": {"values": [2]}}},
    "a fraction": {"parameters": {"config.model.num_heads": {"values": [2, 4.0]}}},
    "a number for a text": {"parameters": {"config.wandb.group": {"values": [8]}}},
    "a number for a flag": {"parameters": {"config.augment.flip": {"values": [1, 0]}}},
    "a value that is not accepted": {"parameters": {"config.model.normalization": {"values": ["double", "both"]}}},
}


@pytest.mark.parametrize("trap", _TRAPS)
def test_a_planted_trap_is_caught(trap, agent, tmp_path):
    """The unplanted file passes; the planted one fails W&B's way, through the values, and ours."""
    path = write(tmp_path / "sweep.yaml")
    assert len(_check_rendered(agent, _content(path), _wandb_points(_content(path)))) == 2
    path = write(path, **_TRAPS[trap])
    content = _content(path)
    with pytest.raises(UserError):
        _check_rendered(agent, content, _wandb_points(content))
    with pytest.raises(UserError):
        loaded = sweep_file.load(path)
        for point in search.grid(loaded):
            sweep_point.make_point(loaded, point, [], pathlib.Path("runs"))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{min: 0, max: 3}", ("int_uniform", {"min": 0, "max": 3})),
        ("{min: 0.0, max: 3.0}", ("uniform", {"min": 0.0, "max": 3.0})),
        ("{distribution: uniform, min: 0, max: 0.5}", ("uniform", {"min": 0, "max": 0.5})),
        ("{distribution: normal}", ("normal", {})),
        ("{distribution: q_log_normal, mu: 1, q: 2}", ("q_log_normal", {"mu": 1, "q": 2})),
        ("{distribution: constant, value: 3}", ("", {})),
        ("{values: [1, 2], probabilities: [0.25, 0.75]}", ("", {})),
    ],
)
def test_a_distribution_is_the_named_one_or_the_one_that_wandb_takes(spec, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(_ROOT)
    path = tmp_path / "sweep.yaml"
    path.write_text(f"program: main.py\nmethod: random\nrun_cap: 2\nparameters: {{config.seed: {spec}}}")
    loaded = sweep_file.load(path)
    parameter = loaded.parameters["config.seed"]
    assert (parameter.distribution, parameter.numbers) == expected
    content = yaml.safe_load(spec)
    assert list(parameter.values) == content.get("values", [content["value"]] if "value" in content else [])
    assert list(parameter.probabilities) == content.get("probabilities", [])
    assert (loaded.metric, loaded.maximize, loaded.command[-1]) == ("val/accuracy_best", True, "${args}")
