"""What one finished run has left, read for comparing it with others."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from eanet.attention import ATTENTIONS, field_names
from eanet.config import rules, stored
from eanet.errors import UserError, printable
from eanet.run.record import Record
from eanet.run.rows import rows_of
from eanet.training import members

# Of a run's results, in the order of the table: name, title.
METRICS = {
    "test/accuracy": "test accuracy",
    "val/accuracy": "validation accuracy",
    "test/top5_accuracy": "test top-5",
    "test/loss": "test loss",
    "parameters": "parameters",
    "mmac": "MMAC",
    "activation_mib": "activation MiB",
    "images_per_second": "images/s training",
    "images_per_second_inference": "images/s inference",
    "seconds": "seconds",
}
_ARRAYS = ("accuracy", "label", "class_name", "predicted")  # of predictions.npz
_CURVES = ("epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy")  # what a row needs to be drawn
ACCURACIES = ("test/accuracy", "val/accuracy", "test/top5_accuracy")


@dataclasses.dataclass(frozen=True, eq=False)
class FinishedRun:
    """What one finished run has left."""

    name: str  # its directory's; with the member's where the run has several
    workdir: pathlib.Path
    fields: dict[str, Any]  # flat; None where the attention gives a field no effect
    results: dict[str, float]
    rows: list[dict[str, Any]]  # of metrics.jsonl, those that end an epoch
    environment: dict[str, Any]
    correct: np.ndarray  # bool [test images]
    labels: np.ndarray  # int [test images]
    class_names: tuple[str, ...]
    predicted: np.ndarray  # int [test images]
    superclass_names: tuple[str, ...]  # empty where the data set, or an older version's record, has none
    superclass_of: np.ndarray | None  # int [classes]

    @property
    def seed(self) -> int:
        return self.fields["seed"]


def find_runs(directories: Sequence[str | pathlib.Path]) -> tuple[list[FinishedRun], list[str]]:
    """Read every finished run under the directories; give them and notes on what was left out."""
    runs, notes = [], []
    for workdir in find_directories(directories):
        members_of_run = _read(workdir, notes)
        if members_of_run is None:
            notes.append(f"{printable(workdir.name)} is not finished and was left out.")
        else:
            runs += members_of_run
    if not runs:
        raise UserError(f"no finished run under {', '.join(map(str, directories))}")
    return runs, notes


def find_directories(directories: Sequence[str | pathlib.Path]) -> list[pathlib.Path]:
    """Return the directory of every run under some directories, each once; raise UserError if one does not exist."""
    found: dict[pathlib.Path, None] = {}
    for directory in map(pathlib.Path, directories):
        if not directory.is_dir():
            raise UserError(f"{directory} is not a directory; accepted: directories of runs, e.g. runs/heads")
        found |= dict.fromkeys(path.parent.resolve() for path in sorted(directory.rglob("config.json")))
    return list(found)


def _read(workdir: pathlib.Path, notes: list[str]) -> list[FinishedRun] | None:
    """Read a run as the runs of its members, mostly one; None if it is not finished."""
    record = Record(workdir)
    results, config = record.read("results.json"), record.read("config.json")
    if results is None:
        return None
    for needed in (config, results):
        if not isinstance(needed, dict):
            raise UserError(f"{workdir}: config.json or results.json holds no run", exit_code=1)
    try:
        config = stored.from_record(config, f"{workdir}/config.json").to_dict()
    except UserError as error:
        raise UserError(str(error), exit_code=1) from error
    networks, rows, predictions = members.members_from_config(config), record.rows(), record.read_predictions()
    missing = [name for name in _ARRAYS if name not in predictions]
    if missing:
        raise UserError(f"{workdir}/predictions.npz has no {missing[0]!r}: an older version wrote it", exit_code=1)
    environment = record.read("environment.json") or {}
    _check_kinds(workdir, rows, predictions, environment)
    correct = np.atleast_2d(predictions["accuracy"]) > 0.5
    predicted = np.atleast_2d(predictions["predicted"])
    if len(correct) != len(networks):
        raise UserError(f"{workdir}/predictions.npz is of {len(correct)} networks, not {len(networks)}", exit_code=1)
    runs = []
    for i, (member, own) in enumerate(zip(networks, _results(workdir, results, len(networks)), strict=True)):
        name = printable(workdir.name if len(networks) == 1 else f"{workdir.name}/{member.name}")
        if "diverged_at_step" in own:
            notes.append(f"{name} diverged at step {own['diverged_at_step']} and was left out.")
            continue
        mine = [row for row in rows_of(rows, networks, member) if "val/loss" in row]
        lacking = [metric for metric in ACCURACIES if metric not in own]
        timings = [f"seconds_{part}" for part in ("compile", "train", "evaluate")]
        lacking += [metric for metric in (*METRICS, *timings) if not _is_number(own.get(metric, 0))]
        if lacking or not mine:
            what = f"results.json has no {lacking[0]!r}" if lacking else "metrics.jsonl has no finished epoch"
            raise UserError(f"{workdir}/{what}", exit_code=1)
        if not all(_is_number(row.get(name)) for row in mine for name in _CURVES):
            raise UserError(f"{workdir}/metrics.jsonl has an epoch without {', '.join(_CURVES)}", exit_code=1)
        seconds = sum(own.get(timing, 0.0) for timing in timings)
        runs.append(
            FinishedRun(
                name,
                workdir,
                comparable_fields(members.fields(config, member)),
                own | {"seconds": seconds},
                mine,
                environment,
                correct[i],
                predictions["label"],
                _names(predictions, "class_name"),
                predicted[i],
                _names(predictions, "superclass_name"),
                predictions.get("superclass_of"),
            )
        )
    return runs


def _names(predictions: dict[str, np.ndarray], array: str) -> tuple[str, ...]:
    return tuple(map(printable, predictions[array].tolist())) if array in predictions else ()


def _check_kinds(workdir: pathlib.Path, rows: Any, predictions: dict[str, np.ndarray], environment: Any) -> None:
    """Raise UserError if a file holds other things than a run writes, as somebody else's may."""
    accuracy, label, names, predicted = (predictions[name] for name in _ARRAYS)
    sound = {
        "metrics.jsonl": all(isinstance(row, dict) for row in rows),
        "environment.json": isinstance(environment, dict)
        and all(isinstance(environment.get(name) or {}, dict) for name in ("git", "versions"))
        and all(isinstance(device, str) for device in environment.get("devices") or []),
        "predictions.npz": accuracy.dtype.kind in "fiub"
        and accuracy.ndim in (1, 2)
        and label.shape == accuracy.shape[-1:]
        and _are_names(names)
        and _are_below(len(names), label)
        and predicted.shape == accuracy.shape
        and _are_below(len(names), predicted)
        and _superclasses_fit(predictions, len(names)),
    }
    for name, right in sound.items():
        if not right:
            raise UserError(f"{workdir}/{name} holds other things than a run writes", exit_code=1)


def _superclasses_fit(predictions: dict[str, np.ndarray], classes: int) -> bool:
    """Return whether there are no superclasses, or all that is known of them."""
    of, names = predictions.get("superclass_of"), predictions.get("superclass_name")
    if of is None or names is None:
        return of is names
    return _are_names(names) and of.shape == (classes,) and _are_below(len(names), of)


def _are_names(array: np.ndarray) -> bool:
    return array.dtype.kind == "U" and array.ndim == 1


def _are_below(count: int, numbers: np.ndarray) -> bool:
    return numbers.dtype.kind in "iu" and bool(np.all((0 <= numbers) & (numbers < count)))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _results(workdir: pathlib.Path, results: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return each member's results: its own metrics and what the run has as a whole."""
    if count == 1:
        return [results]
    entries = results.get("members")
    if not isinstance(entries, list) or len(entries) != count or not all(isinstance(own, dict) for own in entries):
        raise UserError(f"{workdir}/results.json does not list {count} members", exit_code=1)
    whole = {name: value for name, value in results.items() if "/" not in name and name != "members"}
    # Seconds are a member's share; images per second stay the device's, as they are for a run alone.
    whole |= {name: value / count for name, value in whole.items() if name.startswith("seconds_")}
    return [whole | own for own in entries]


def comparable_fields(config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a configuration, flat; None where its attention gives a field no effect."""
    fields = {field: _hashable(value) for field, value in rules.flatten(config).items()}
    # What another attention reads and this one does not: two runs that differ in that alone are the same run.
    of_attentions = frozenset().union(*map(field_names, ATTENTIONS)) - {"dtype"}
    for field in of_attentions - field_names(fields["model.attention"]):
        if f"model.{field}" in fields:
            fields[f"model.{field}"] = None
    return fields


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
