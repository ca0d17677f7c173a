"""A W&B sweep file, read with W&B's meaning; what cannot be honoured without its server is an error, never ignored."""

import dataclasses
import math
import pathlib
import re
import reprlib
import sys
from typing import Any

import yaml

from eanet.config import rules
from eanet.errors import UserError
from eanet.sweep import distributions

METHODS = ("grid", "random", "bayes")
_KEYS = ("program", "command", "method", "parameters", "metric", "run_cap", "name", "description", "project", "entity")
_NEEDS_SERVER = ("early_terminate", "controller", "job", "image_uri", "scheduler", "metrics")
_DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")  # W&B's
_CHOICES = {  # distribution: the keys that it has, all of them needed
    "constant": {"value"},
    "categorical": {"values"},
    "categorical_w_probabilities": {"values", "probabilities"},
}
_MACROS = _DEFAULT_COMMAND
_MOST_POINTS = 10_000
_MOST_BYTES = 2**20  # of a file

# Shows a value, but not all that a few nested aliases of YAML stand for.
_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 3, 200, 200
_show = _short.repr


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One swept flag: a list of values with their probabilities, or a continuous distribution."""

    values: tuple[Any, ...] = ()
    probabilities: tuple[float, ...] = ()  # empty = all the same
    distribution: str = ""  # of eanet.sweep.distributions; empty if there are values
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the distribution


@dataclasses.dataclass(frozen=True)
class SweepFile:
    """A sweep file's contents, checked."""

    path: pathlib.Path
    program: str
    command: tuple[str, ...]
    method: str  # grid | random | bayes
    parameters: dict[str, Parameter]
    metric: str  # the name that a row of metrics.jsonl has it under
    maximize: bool
    run_cap: int  # 0 = no limit
    fixed: dict[str, Any] = dataclasses.field(default_factory=dict)  # parameters of one value, which no name needs

    def arguments(self, values: dict[str, Any]) -> list[str]:
        """Render the command of one point, as W&B's agent does, but with the Python that runs now."""
        flags = [f"--{name}={value}" for name, value in values.items()]
        macros = {"${env}": [], "${interpreter}": [sys.executable], "${program}": [self.program], "${args}": flags}
        return [argument for part in self.command for argument in macros.get(part, [part])]


class _Loader(yaml.SafeLoader):
    """YAML without objects, in which a key given twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        merge = "tag:yaml.org,2002:merge"  # <<, which adds another mapping's keys and yields to this one's
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != merge]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load(path: str | pathlib.Path) -> SweepFile:
    """Read and check a sweep file. Raises UserError with one line that names the key."""
    path = pathlib.Path(path)
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is not a file; accepted: a sweep file")
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(
                f"{path} has {path.stat().st_size:,} bytes; accepted: a sweep file of at most {_MOST_BYTES:,}"
            )
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: e.g. a date that does not exist
        raise UserError(f"{path} is not plain YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}; accepted: a mapping with {', '.join(_KEYS[:4])}")
    try:
        return _check(path, content)
    except _Fault as fault:
        raise UserError(f"{path}: {fault}") from fault


class _Fault(Exception):
    """What is wrong in a sweep file."""


def _check(path: pathlib.Path, content: dict[str, Any]) -> SweepFile:
    for key in content:
        if key in _NEEDS_SERVER:
            raise _Fault(f"{key} needs W&B's server (wandb sweep); without it, take it out")
        if key not in _KEYS:
            raise _Fault(f"{_show(key)}: no such key; accepted: {', '.join(_KEYS)}")
    method, program = content.get("method"), content.get("program")
    if method not in METHODS:
        raise _Fault(f"method={_show(method)}; accepted: {', '.join(METHODS)}")
    if not rules.is_text(program) or not _is_file(program):
        raise _Fault(
            f"program={_show(program)} is not a file; accepted: main.py, in the directory from which it is started"
        )
    run_cap = content.get("run_cap", 0)
    if type(run_cap) is not int or not ("run_cap" in content) <= run_cap <= _MOST_POINTS:
        raise _Fault(f"run_cap={_show(run_cap)}; accepted: a whole number from 1 to {_MOST_POINTS}")
    if method != "grid" and not run_cap:
        raise _Fault(f"run_cap is missing: without it method={method} would never end; accepted: a whole number from 1")
    metric, goal = _metric(content.get("metric"))
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise _Fault("parameters is missing or empty; accepted: a mapping from flags to values")
    parameters = {name: _parameter(name, parameters[name]) for name in parameters}
    if method == "grid":
        for name, parameter in parameters.items():
            if parameter.distribution:
                raise _Fault(f"parameters.{name}: a grid takes value or values, not {parameter.distribution}")
            if parameter.probabilities:
                raise _Fault(f"parameters.{name}: a grid takes no probabilities")
        count = math.prod(len(parameter.values) for parameter in parameters.values())
        if count > _MOST_POINTS and not run_cap:
            raise _Fault(f"parameters: a grid of {count:,} points; accepted: at most {_MOST_POINTS}, or a run_cap")
    fixed = {name: parameter.values[0] for name, parameter in parameters.items() if len(parameter.values) == 1}
    return SweepFile(path, program, _command(content), method, parameters, metric, goal == "maximize", run_cap, fixed)


def _is_file(path: str) -> bool:
    try:
        return pathlib.Path(path).is_file()
    except OSError:  # e.g. a name that is too long
        return False


def _metric(metric: Any) -> tuple[str, str]:
    metric = {"name": "val/accuracy_best", "goal": "maximize"} if metric is None else metric
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str) or set(metric) - {"name", "goal"}:
        raise _Fault(f"metric={_show(metric)}; accepted: a mapping with name and goal")
    goal = metric.get("goal", "minimize")  # W&B's default
    if goal not in ("minimize", "maximize"):
        raise _Fault(f"metric.goal={_show(goal)}; accepted: minimize or maximize")
    return metric["name"], goal


def _command(content: dict[str, Any]) -> tuple[str, ...]:
    command = content.get("command", list(_DEFAULT_COMMAND))
    if not isinstance(command, list) or not all(map(rules.is_text, command)):
        raise _Fault(f"command={_show(command)}; accepted: a list of texts")
    for part in command:
        if "${" in part and part not in _MACROS:
            raise _Fault(f"command: {part!r}; accepted: plain text and, as whole elements, {', '.join(_MACROS)}")
    if command.count("${args}") != 1 or command.count("${program}") != 1:
        raise _Fault("command: accepted are lists with ${program} and ${args} once each")
    return tuple(command)


def _parameter(name: Any, spec: Any) -> Parameter:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name):
        raise _Fault(f"parameters.{name}: no flag's name; accepted: config.model.num_heads and the like")
    where = f"parameters.{name}"
    if not isinstance(spec, dict):
        raise _Fault(f"{where}={_show(spec)}; accepted: a mapping with value, values or distribution")
    if "parameters" in spec:
        raise _Fault(f"{where} is nested, which W&B renders as one flag; write dotted names: {name}.FIELD")
    distribution = spec["distribution"] if "distribution" in spec else _implied(where, spec)
    rest = {key: value for key, value in spec.items() if key != "distribution"}
    accepted = (*_CHOICES, *distributions.CONTINUOUS)
    if distribution not in accepted:
        raise _Fault(f"{where}: distribution={_show(distribution)}; accepted: {', '.join(accepted)}")
    if distribution in _CHOICES:
        return _choices(where, distribution, rest)
    fault = distributions.check(distribution, rest)
    if fault:
        raise _Fault(f"{where}: {fault}")
    return Parameter(distribution=distribution, numbers=rest)


def _implied(where: str, spec: dict[str, Any]) -> str:
    """Return the distribution that W&B takes if none is named."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if {"min", "max"} <= set(spec):
        if type(spec["min"]) is not type(spec["max"]):
            raise _Fault(f"{where}: min={_show(spec['min'])} and max={_show(spec['max'])} are of different types")
        return "int_uniform" if type(spec["min"]) is int else "uniform"
    raise _Fault(f"{where}={_show(spec)}; accepted: a mapping with value, values or distribution")


def _choices(where: str, distribution: str, spec: dict[str, Any]) -> Parameter:
    for key in [*(_CHOICES[distribution] - set(spec)), *(key for key in spec if key not in _CHOICES[distribution])]:
        raise _Fault(f"{where}: {distribution} {'has no' if key in spec else 'needs'} {_show(key)}")
    values = [spec["value"]] if distribution == "constant" else spec["values"]
    if not isinstance(values, list) or not values:
        raise _Fault(f"{where}: values={_show(values)}; accepted: a list that is not empty")
    seen = set()
    for value in values:
        if value is None:
            raise _Fault(f"{where}: null arrives as the text 'None'; accepted: numbers, texts, true and false")
        if not isinstance(value, (bool, int, float)) and not rules.is_text(value):
            raise _Fault(f"{where}: {_show(value)}; accepted: numbers, texts in one line, true and false")
        if (type(value), value) in seen:
            raise _Fault(f"{where}: {_show(value)} is there twice")
        seen.add((type(value), value))
    probabilities = spec.get("probabilities", [])
    if distribution == "categorical_w_probabilities":
        shares = isinstance(probabilities, list) and all(type(p) in (int, float) and 0 <= p <= 1 for p in probabilities)
        if not shares or len(probabilities) != len(values) or abs(sum(probabilities) - 1) > 1e-6:
            raise _Fault(f"{where}: probabilities={_show(probabilities)}; accepted: one for each value, with sum 1")
    return Parameter(values=tuple(values), probabilities=tuple(probabilities))
