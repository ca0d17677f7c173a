"""What one finished run has left, read for comparing it with others."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from eanet import config as config_lib
from eanet.errors import UserError
from eanet.record import Record

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
ACCURACIES = ("test/accuracy", "val/accuracy", "test/top5_accuracy")

# Fields of the model that its kind of attention does not read: two runs that differ in them alone are the same run.
_EXTERNAL_ONLY = ("dim_coefficient", "memory_size", "normalization", "memory_bias", "tie_memories", "share_memories")
_UNREAD = {
    "external": ("head_dim",),
    "self": _EXTERNAL_ONLY,
    "none": (*_EXTERNAL_ONLY, "num_heads", "head_dim", "attention_dropout", "projection_dropout"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What one finished run has left."""

    workdir: pathlib.Path
    fields: dict[str, Any]  # flat; None where the attention gives a field no effect
    results: dict[str, float]
    rows: list[dict[str, Any]]  # of metrics.jsonl, those that end an epoch
    environment: dict[str, Any]
    correct: np.ndarray  # bool [test images]
    labels: np.ndarray  # int [test images]
    class_names: tuple[str, ...]

    @property
    def seed(self) -> int:
        return self.fields["seed"]


def find_runs(directories: Sequence[str | pathlib.Path]) -> tuple[list[Run], list[str]]:
    """Read every finished run under the directories; give them and notes on what was left out."""
    found: dict[pathlib.Path, None] = {}
    for directory in map(pathlib.Path, directories):
        if not directory.is_dir():
            raise UserError(f"{directory} is no directory; accepted: directories of runs, runs/heads say")
        found |= dict.fromkeys(path.parent.resolve() for path in sorted(directory.rglob("config.json")))
    runs, notes = [], []
    for workdir in found:
        run = _read(workdir)
        if run is None:
            notes.append(f"{workdir.name} is not finished and was left out.")
        else:
            runs.append(run)
    if not runs:
        raise UserError(f"no finished run under {', '.join(map(str, directories))}")
    return runs, notes


def _read(workdir: pathlib.Path) -> Run | None:
    record = Record(workdir)
    results, config = record.read("results.json"), record.read("config.json")
    if results is None:
        return None
    for needed in (config, results):
        if not isinstance(needed, dict):
            raise UserError(f"{workdir}: config.json or results.json holds no run", exit_code=1)
    try:
        config_lib.validate(ml_collections.ConfigDict(config))
    except UserError as error:
        raise UserError(f"{workdir}/config.json: {error}", exit_code=1) from error
    rows = [row for row in record.rows() if "val/loss" in row]
    lacking = [metric for metric in ACCURACIES if metric not in results]
    if lacking or not rows:
        what = f"results.json has no {lacking[0]!r}" if lacking else "metrics.jsonl has no finished epoch"
        raise UserError(f"{workdir}/{what}", exit_code=1)
    predictions = record.read_predictions()
    missing = [name for name in ("accuracy", "label", "class_name") if name not in predictions]
    if missing:
        raise UserError(f"{workdir}/predictions.npz has no {missing[0]!r}: an older version wrote it", exit_code=1)
    fields = {field: _hashable(value) for field, value in config_lib.flatten(config).items()}
    for field in _UNREAD[fields["model.attention"]]:
        fields[f"model.{field}"] = None
    seconds = sum(results.get(f"seconds_{part}", 0.0) for part in ("compile", "train", "evaluate"))
    return Run(
        workdir,
        fields,
        results | {"seconds": seconds},
        rows,
        record.read("environment.json") or {},
        predictions["accuracy"] > 0.5,
        predictions["label"],
        tuple(predictions["class_name"].tolist()),
    )


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
