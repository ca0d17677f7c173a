"""The members of a run: its seeds, times a grid of numeric hyperparameters. Mostly there is one.

A member computes what a run of its own with that seed and those values would; the run's rows and results hold the
means over the seeds under the plain names, and each member's numbers under its own.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eanet.attention import dropout
from eanet.training import metrics

# What may differ between members: the name in config.vary and the field that it stands for.
VARIED = {
    "learning_rate": "optimizer.learning_rate",
    "weight_decay": "optimizer.weight_decay",
    "label_smoothing": "train.label_smoothing",
    "attention_dropout": "model.attention_dropout",
    "projection_dropout": "model.projection_dropout",
    "mlp_dropout": "model.mlp_dropout",
}
# Metrics whose deviation and interval over the seeds are said; of the others only the mean.
_SPREAD = ("loss", "accuracy", "top5_accuracy", "accuracy_best")


@dataclasses.dataclass(frozen=True)
class Member:
    """One of the networks that a run trains."""

    seed: int
    varied: tuple[tuple[str, float], ...] = ()  # names of VARIED with this member's values

    @property
    def point(self) -> str:
        """Give its place in the grid, learning_rate=0.001 say; empty where nothing varies."""
        return ",".join(f"{name}={value:g}" for name, value in self.varied)

    @property
    def name(self) -> str:
        """Give what its numbers are called by: seed_3, or learning_rate=0.001/seed_3."""
        return _join(self.point, f"seed_{self.seed}")


def of(config: Mapping[str, Any]) -> list[Member]:
    """Give the members of a configuration, the seeds of a point of the grid next to one another."""
    varied = {name: values for name, values in config["vary"].items() if values}
    seeds = range(config["seed"], config["seed"] + config["num_seeds"])
    grid = itertools.product(*([(name, value) for value in varied[name]] for name in VARIED if name in varied))
    return [Member(seed, point) for point in grid for seed in seeds]


def fields(config: Mapping[str, Any], member: Member) -> dict[str, Any]:
    """Give the configuration, as a nested dict, of a run that would train this member alone."""
    alone = {name: dict(part) if isinstance(part, Mapping) else part for name, part in config.items()}
    alone |= {"seed": member.seed, "num_seeds": 1, "vary": {name: () for name in VARIED}}
    for name, value in member.varied:
        part, field = VARIED[name].split(".")
        alone[part][field] = value
    return alone


def hyperparameters(config: Mapping[str, Any], members: Sequence[Member]) -> dict[str, Any]:
    """Give the numbers that a compiled step takes as arguments, each with a leading axis of the members.

    One program serves all their values. A rate of dropout is among them unless it is 0 everywhere, as dropout.Levels
    with as many bits as the most demanding of its values needs.
    """

    def values(name: str) -> list[float]:
        part, field = VARIED[name].split(".")
        return [fields(config, member)[part][field] for member in members]

    traced = ("learning_rate", "weight_decay", "label_smoothing")
    numbers = {name: np.array(values(name), np.float32) for name in traced}
    places = ["mlp_dropout"] + ["attention_dropout", "projection_dropout"] * (config["model"]["attention"] != "none")
    return numbers | {name: dropout.common_levels(values(name)) for name in places if any(values(name))}


def points(members: Sequence[Member]) -> list[str]:
    """Give the points of the grid under which a run has its metrics; "" where they stand under their plain names."""
    return list(dict.fromkeys(member.point for member in members)) if len(members) > 1 else [""]


def combine(members: Sequence[Member], numbers: Mapping[Member, Mapping[str, float]]) -> dict[str, float]:
    """Put the members' metrics into one row; `numbers` has no entry for a member that has diverged.

    A run of one member has its metrics as they are. Else a point of the grid has the mean over its seeds of each
    metric, NAME, where there are several the deviation NAME_std and the 95% interval from NAME_low to NAME_high, and
    num_seeds, how many entered; each member has its own numbers as seed_3/NAME.
    """
    if len(members) == 1:
        return dict(numbers[members[0]])
    row: dict[str, float] = {}
    for point in points(members):
        healthy = [numbers[member] for member in members if member.point == point and member in numbers]
        row[_join(point, "num_seeds")] = len(healthy)
        for metric in healthy[0] if healthy else ():
            estimate = metrics.estimate(metric, [values[metric] for values in healthy])
            row[_join(point, metric)] = estimate.mean
            if len(healthy) > 1 and metric.rpartition("/")[2] in _SPREAD:
                row[_join(point, f"{metric}_std")] = estimate.deviation
                row[_join(point, f"{metric}_low")] = estimate.low
                row[_join(point, f"{metric}_high")] = estimate.high
    for member, values in numbers.items():
        row |= {_join(member.name, metric): value for metric, value in values.items()}
    return row


def glance(members: Sequence[Member], numbers: Mapping[Member, Mapping[str, float]]) -> tuple[str, dict[str, float]]:
    """Return what shows at a glance how a run gets on: the metrics' mean over the seeds, and whose they are.

    Of a grid it is the best point's: the highest validation accuracy, or the lowest training loss before there is
    one. `numbers` has no entry for a member that has diverged.
    """
    means: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    for point in dict.fromkeys(member.point for member in numbers):
        rows = [values for member, values in numbers.items() if member.point == point]
        means[point] = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        counts[point] = len(rows)
    best = min(means, key=lambda point: (-means[point].get("val/accuracy", 0.0), means[point]["train/loss"]))
    grid = len(points(members))
    whose = [f"best of {grid}", best] if grid > 1 else []
    whose += [f"mean of {counts[best]}"] if len(members) > grid else []
    return ", ".join(whose), means[best]


def table(
    members: Sequence[Member], numbers: Mapping[Member, Mapping[str, float]], diverged: Sequence[int]
) -> list[dict[str, Any]]:
    """List the members for results.json: seed, what varies, and their metrics or the step at which they diverged."""
    return [
        {"seed": member.seed, **dict(member.varied)} | (dict(numbers.get(member, {"diverged_at_step": step})))
        for member, step in zip(members, diverged, strict=True)
    ]


def describe(members: Sequence[Member], results: Mapping[str, Any]) -> str:
    """Give the outcome of a run in a line for each point of the grid."""
    lines = []
    for point in points(members):
        whose, count = f"{point}: " if point else "", results.get(_join(point, "num_seeds"), 1)
        if not count:
            lines.append(f"{whose}every seed has diverged")
            continue
        loss, accuracy, top5 = (results[_join(point, f"test/{name}")] for name in ("loss", "accuracy", "top5_accuracy"))
        spread = ""
        if count > 1:
            low, high = (results[_join(point, f"test/accuracy_{end}")] for end in ("low", "high"))
            low, high = max(0.0, low), min(1.0, high)  # an earlier version recorded intervals beyond
            spread = f" ({low:.2%} to {high:.2%}, 95%, n = {count})"
        part = f" (first {results['eval_limit']:,} images)" if "eval_limit" in results else ""
        start = f"{whose}test{part}" if point else f"Test{part}:"
        lines.append(f"{start} loss {loss:.4f}  accuracy {accuracy:.2%}{spread}  top-5 {top5:.2%}")
    return "\n".join(lines)


def rows_of(rows: Sequence[Mapping[str, Any]], members: Sequence[Member], member: Member) -> list[dict[str, Any]]:
    """Give the rows that this member's own run would have; those after it has diverged are left out."""
    if len(members) == 1:
        return [dict(row) for row in rows]
    prefix = _join(member.name, "")
    shared = ("step", "epoch", "train/images_per_second")
    return [
        {name: row[name] for name in shared if name in row}
        | {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
        for row in rows
        if any(name.startswith(prefix) for name in row)
    ]


def _join(*parts: str) -> str:
    return "/".join(part for i, part in enumerate(parts) if part or i)
