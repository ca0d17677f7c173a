"""Runs grouped into arms and set against a baseline. Reads records, and nothing but records."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from eanet import config as config_lib
from eanet import statistics
from eanet.errors import UserError
from eanet.record import Record
from eanet.statistics import Difference, Estimate

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
COSTS = ("parameters", "mmac")  # a fair comparison keeps at least these alike,
MATCHED = 0.1  # up to this relative difference

_SAME = ("data.name", "data.validation_fraction")  # without which accuracies are not of the same images
_EXTERNAL_ONLY = ("dim_coefficient", "memory_size", "normalization", "memory_bias", "tie_memories", "share_memories")
_WITHOUT_EFFECT = {
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


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ in their seed only, or in fields that --by leaves out."""

    by: dict[str, Any]
    runs: list[Run]

    @property
    def name(self) -> str:
        known = {field: value for field, value in self.by.items() if value is not None}
        return ", ".join(f"{field.rpartition('.')[2]}={value}" for field, value in known.items()) or "all runs"

    def values(self, metric: str) -> dict[int, float]:
        """Give a metric by seed; runs that do not have it are left out."""
        return {run.seed: run.results[metric] for run in self.runs if metric in run.results}

    def estimate(self, metric: str) -> Estimate | None:
        values = list(self.values(metric).values())
        return statistics.estimate(values) if values else None


@dataclasses.dataclass(frozen=True)
class Versus:
    """A group against the baseline, by test accuracy."""

    difference: Difference
    p_holm: float  # of the difference, over the table; NaN without a test
    mcnemar: float  # over the images, over all pairs of runs; NaN without a test
    mcnemar_holm: float
    mcnemar_pairs: int
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All that the tables, pictures and the report show."""

    groups: list[Group]
    baseline: Group
    versus: dict[str, Versus]  # by the group's name; the baseline has none
    also_differ: dict[str, list[Any]]  # fields that the groups are not named by, with their values
    notes: list[str]


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
    predictions = record.read_predictions()
    missing = [name for name in ("accuracy", "label", "class_name") if name not in predictions]
    if missing:
        raise UserError(f"{workdir}/predictions.npz has no {missing[0]!r}: an older version wrote it", exit_code=1)
    fields = config_lib.flatten(config)
    for field in _WITHOUT_EFFECT[fields["model.attention"]]:
        fields[f"model.{field}"] = None
    seconds = sum(results.get(f"seconds_{part}", 0.0) for part in ("compile", "train", "evaluate"))
    rows = [row for row in record.rows() if "val/loss" in row]
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


def compare(runs: Sequence[Run], by: Sequence[str] = (), baseline: str = "", notes: Iterable[str] = ()) -> Comparison:
    """Group runs by the fields in which they differ, or by `by`, and set each group against one of them.

    baseline names a group by some of its fields, model.attention=self,model.num_heads=4 say; empty = the first.
    Raises UserError where runs are of different data or splits, or one group holds a seed twice.
    """
    _check_same_data(runs)
    notes = list(notes)
    differing = _differing(runs)
    chosen = _checked_by(by, runs) if by else _distinguishing(runs, differing)
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.fields[field] for field in chosen), []).append(run)
    ordered = sorted(groups, key=lambda key: [_rank(value) for value in key])
    made = [Group(dict(zip(chosen, key, strict=True)), _one_a_seed(groups[key], differing, notes)) for key in ordered]
    also_differ = {field: differing[field] for field in differing if field not in chosen}
    base = _find_baseline(made, baseline)
    return Comparison(made, base, _all_versus(made, base), also_differ, notes)


def _check_same_data(runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs:
        for field in _SAME:
            if run.fields[field] != first.fields[field]:
                raise UserError(
                    f"config.{field} is {first.fields[field]!r} in {first.workdir.name} and {run.fields[field]!r} in "
                    f"{run.workdir.name}: accuracies on different images do not compare"
                )
        if not np.array_equal(run.labels, first.labels):
            raise UserError(f"{first.workdir.name} and {run.workdir.name} were tested on different images")


def _differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Give the fields with an effect on the numbers, seed apart, that do not have one value in all runs."""
    differing = {}
    for field in config_lib.RULES:
        if field == "seed" or config_lib.without_effect(field):
            continue
        values = sorted({_hashable(run.fields[field]) for run in runs} - {None}, key=_rank)
        if len(values) > 1:  # where it is None it has no effect
            differing[field] = values
    return differing


def _distinguishing(runs: Sequence[Run], differing: dict[str, list[Any]]) -> list[str]:
    """Leave out the fields that follow from those before them, as the document's projection dropout does."""
    chosen: list[str] = []
    parts = 1
    for field in differing:
        finer = len({tuple(_hashable(run.fields[name]) for name in (*chosen, field)) for run in runs})
        if finer > parts:
            chosen, parts = [*chosen, field], finer
    return chosen


def _checked_by(by: Sequence[str], runs: Sequence[Run]) -> list[str]:
    for field in by:
        if field not in runs[0].fields or field == "seed":
            raise UserError(f"--by: {field!r}; accepted: fields of the configuration, model.num_heads say, but seed")
    return list(by)


def _one_a_seed(runs: list[Run], differing: dict[str, list[Any]], notes: list[str]) -> list[Run]:
    """Order a group by seed; the same run made twice counts once, two different ones of a seed are an error."""
    kept: dict[int, Run] = {}
    for run in runs:
        other = kept.setdefault(run.seed, run)
        if other is run:
            continue
        fields = [field for field in differing if run.fields[field] != other.fields[field]]
        if fields:
            raise UserError(
                f"{other.workdir.name} and {run.workdir.name} fall into one group with the same seed, but differ in "
                f"{', '.join(fields)}; add {'it' if len(fields) == 1 else 'them'} to --by"
            )
        same = all(run.results[metric] == other.results[metric] for metric in ACCURACIES)
        outcome = "the same accuracies" if same else "OTHER accuracies"
        notes.append(f"{run.workdir.name} repeats {other.workdir.name}, with {outcome}, and counts once.")
    return [kept[seed] for seed in sorted(kept)]


def _find_baseline(groups: list[Group], text: str) -> Group:
    wanted = dict(part.partition("=")[::2] for part in text.split(",")) if text else {}
    matching = [
        group
        for group in groups
        if all(str(group.runs[0].fields.get(field)) == value for field, value in wanted.items())
    ]
    if not matching or (text and len(matching) > 1):
        names = "; ".join(",".join(f"{field}={value}" for field, value in group.by.items()) for group in groups)
        raise UserError(f"--baseline={text} fits {len(matching)} groups; accepted is what fits one of: {names}")
    return matching[0]


def _all_versus(groups: list[Group], base: Group) -> dict[str, Versus]:
    others = [group for group in groups if group is not base]
    differences = [statistics.difference(g.values("test/accuracy"), base.values("test/accuracy")) for g in others]
    pairs = [_pairs(group, base) for group in others]
    # One run an arm gives no p-value at all: McNemar's would be of two networks, and be read as of two methods.
    mcnemars = [
        statistics.combine([statistics.mcnemar(a.correct, b.correct) for a, b in some]) if len(some) > 1 else math.nan
        for some in pairs
    ]
    p_holm, mcnemar_holm = statistics.holm([d.p_value for d in differences]), statistics.holm(mcnemars)
    return {
        group.name: Versus(
            differences[i], p_holm[i], mcnemars[i], mcnemar_holm[i], len(pairs[i]), _versus_notes(group, base)
        )
        for i, group in enumerate(others)
    }


def _pairs(group: Group, base: Group) -> list[tuple[Run, Run]]:
    """Pair runs by common seeds; where there are not two of them, in the order of their seeds."""
    theirs = {run.seed: run for run in base.runs}
    common = [(run, theirs[run.seed]) for run in group.runs if run.seed in theirs]
    return common if len(common) > 1 else list(zip(group.runs, base.runs, strict=False))


def _versus_notes(group: Group, base: Group) -> list[str]:
    unmatched = []
    for metric in COSTS:
        ours, theirs = group.estimate(metric), base.estimate(metric)
        if ours and theirs and abs(ours.mean / theirs.mean - 1) > MATCHED:
            unmatched.append(f"{METRICS[metric]} {ours.mean / theirs.mean:.2f}×")
    return [f"not matched: {', '.join(unmatched)} the baseline's"] if unmatched else []


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _rank(value: Any) -> tuple[int, Any]:
    """Order numbers by size and everything else by its text."""
    return (0, value) if isinstance(value, (int, float)) else (1, str(value))
