"""What is wrong with a sweep file is one line that names the key."""

import pathlib

import pytest

from eanet import cli
from eanet.errors import UserError
from eanet.sweep import file as sweep_file
from eanet.sweep import point as sweep_point
from eanet.sweep import search
from helpers.sweep_files import COMMAND, write

_ROOT = pathlib.Path(__file__).parents[2]


def _parameter(**spec):
    return {"method": "random", "run_cap": 3, "parameters": {"config.seed": spec}}


def _distribution(distribution, **numbers):
    return _parameter(distribution=distribution, **numbers)


_BAD = [  # changes of a file that is right, and what the message names
    ({"method": "sobol"}, "method='sobol'"),
    ({"method": ["grid"]}, "method=['grid']"),
    ({"program": "mein.py"}, "program='mein.py'"),
    ({"early_terminate": {"type": "hyperband"}}, "early_terminate needs W&B's server (wandb sweep); without"),
    ({"parametrs": {}}, "'parametrs': no such key"),
    ({"parameters": {}}, "parameters is missing or empty"),
    ({"parameters": {"config.seed": 3}}, "parameters.config.seed=3"),
    ({"parameters": {3: {"value": 3}}}, "parameters.3"),
    ({"run_cap": 0}, "run_cap=0"),
    ({"run_cap": True}, "run_cap=True"),
    ({"method": "random"}, "run_cap is missing"),
    ({"method": "bayes"}, "run_cap is missing"),
    ({"metric": "val/loss"}, "metric='val/loss'"),
    ({"metric": {"name": "val/loss", "target": 3}}, "metric={'name': 'val/loss', 'target': 3}"),
    ({"metric": {"name": "val/loss", "goal": "smaller"}}, "metric.goal='smaller'"),
    ({"command": "${program} ${args}"}, "command='${program} ${args}'"),
    ({"command": ["${program}"]}, "${args} once"),
    ({"command": [*COMMAND, "${nothing}"]}, "command: '${nothing}'"),
    ({"command": [*COMMAND, "--config.wandb.group=${envvar:USER}"]}, "${envvar:USER}"),
    ({"method": "grid"} | {"parameters": _distribution("uniform", min=0, max=1)["parameters"]}, "a grid takes value"),
    ({"method": "grid"} | {"parameters": _parameter(values=[1], probabilities=[1])["parameters"]}, "no probabilities"),
    (_parameter(values=[]), "config.seed: values=[]; accepted: a list"),
    (_parameter(values=[0, 1, 0]), "config.seed: 0 is there twice"),
    (_parameter(values=[[1, 2]]), "config.seed: [1, 2]"),
    (_parameter(value=3, values=[1, 2]), "config.seed"),
    (_parameter(value=3, max=4), "config.seed: constant has no 'max'"),
    (_parameter(value=3, probabilities=[1]), "config.seed"),
    (_parameter(distribution="constant", values=[1, 2]), "config.seed"),
    (_parameter(distribution="categorical", value=3), "config.seed: categorical"),
    (_parameter(distribution="categorical", values=[1, 2], probabilities=[0.9, 0.2]), "config.seed"),
    (_parameter(distribution=["uniform"], min=0, max=1), "config.seed: distribution=['uniform']"),
    (_parameter(distribution="unifrom", min=0, max=1), "config.seed: distribution='unifrom'"),
    (_parameter(values=[1, 2], probabilities=[0.5, 0.6]), "config.seed: probabilities=[0.5, 0.6]"),
    (_parameter(values=[1, 2], probabilities=[1.0]), "config.seed: probabilities=[1.0]"),
    (_parameter(values=[1, 2], probabilities=[1.5, -0.5]), "config.seed: probabilities=[1.5, -0.5]"),
    (_parameter(values=[1, 2], probabilities=["a", 1]), "config.seed: probabilities=['a', 1]"),
    (_parameter(min=5, max=3), "config.seed: min=5 is not below max=3"),
    (_parameter(min=0, max=1.0), "config.seed: min=0 and max=1.0 are of different types"),
    (_distribution("uniform", min=0, max=1.0, values=[1]), "config.seed: uniform"),
]


@pytest.mark.parametrize(("changes", "says"), _BAD, ids=[says for _, says in _BAD])
def test_a_bad_file_is_one_line_that_names_the_key(changes, says, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(_ROOT)
    path = write(tmp_path / "sweep.yaml", **changes)
    assert cli.run(lambda: sweep_file.load(path)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ") and says in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"- main.py", "holds list"),
        (b"", "holds NoneType; accepted: a mapping"),
        (b"method: grid\nmethod: random", "'method' is there twice"),
        (b"parameters: {a: {value: 1, value: 2}}", "'value' is there twice"),
        (b"program: !!python/object/apply:os.mkdir [traces]", "python/object/apply:os.mkdir"),
        (b"program: !!python/name:os.system", "python/name:os.system"),
        (b"method: [grid", "not plain YAML"),
        (b"method: 2024-13-45", "not plain YAML"),
        (b"method: " + 2000 * b"[", "not plain YAML"),
        (b"name: \xff\xfe", "cannot be read"),
        (None, "cannot be read: Is a directory"),
    ],
)
def test_what_is_no_sweep_file_is_one_line(content, says, monkeypatch, tmp_path, capsys):
    path = tmp_path / "sweep.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert cli.run(lambda: sweep_file.load(path)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path} ") and says in error and error.count("\n") == 1
    assert [*tmp_path.iterdir()] == [path], "reading a file has run something"


def test_a_long_value_gives_no_longer_a_name_than_a_directory_may_have(monkeypatch, tmp_path):
    monkeypatch.chdir(_ROOT)
    values = [letter * 300 for letter in "ab"]
    loaded = sweep_file.load(write(tmp_path / "sweep.yaml", parameters={"config.wandb.group": {"values": values}}))
    points = [sweep_point.make_point(loaded, point, [], tmp_path) for point in search.grid(loaded)]
    for point in points:
        point.workdir.mkdir()
    assert len({point.workdir for point in points}) == 2


@pytest.mark.timeout(20)
@pytest.mark.parametrize("key", ["method", "program", "run_cap", "metric", "command", "parameters"])
def test_a_few_aliases_that_stand_for_much_are_shown_short(key, monkeypatch, tmp_path):
    """Nine levels of nine aliases: written out, 400 million letters."""
    monkeypatch.chdir(_ROOT)
    bomb = ["x"]
    for _ in range(9):
        bomb = [bomb] * 9
    spec = {"config.seed": {"values": [bomb]}} if key == "parameters" else bomb
    path = write(tmp_path / "sweep.yaml", **{key: spec})
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match=key) as error:
        sweep_file.load(path)
    assert len(str(error.value)) < 2000
