"""The rows of metrics.jsonl, and the results beside them: one member's numbers under plain names, or several members'.

Whoever writes a row and whoever reads it back takes the names from here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eanet.training import metrics
from eanet.training.members import Member, join, points

# Metrics whose deviation and interval over the seeds are said; of the others only the mean.
_SPREAD = ("loss", "accuracy", "top5_accuracy", "accuracy_best")


def combine(members: Sequence[Member], numbers: Mapping[Member, Mapping[str, float]]) -> dict[str, float]:
    """Put the members' metrics into one row; `numbers` has no entry for a member that has diverged.

    A run of one member has its metrics as they are. Else a point of the grid has the mean over its seeds of each
    metric, NAME, and of several seeds the deviation NAME_std and the 95% interval from NAME_low to NAME_high;
    num_seeds says how many entered. Each member has its own numbers as seed_3/NAME.
    """
    if len(members) == 1:
        return dict(numbers[members[0]])
    row: dict[str, float] = {}
    for point in points(members):
        healthy = [numbers[member] for member in members if member.point == point and member in numbers]
        row[join(point, "num_seeds")] = len(healthy)
        for metric in healthy[0] if healthy else ():
            estimate = metrics.estimate(metric, [values[metric] for values in healthy])
            row[join(point, metric)] = estimate.mean
            if len(healthy) > 1 and metric.rpartition("/")[2] in _SPREAD:
                row[join(point, f"{metric}_std")] = estimate.deviation
                row[join(point, f"{metric}_low")] = estimate.low
                row[join(point, f"{metric}_high")] = estimate.high
    for member, values in numbers.items():
        row |= {join(member.name, metric): value for metric, value in values.items()}
    return row


def progress_metrics(
    members: Sequence[Member], numbers: Mapping[Member, Mapping[str, float]]
) -> tuple[str, dict[str, float]]:
    """Return what shows the progress of a run at a glance: whose metrics, and their mean over the seeds.

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


def list_members(
    members: Sequence[Member], numbers: Mapping[Member, Mapping[str, float]], diverged: Sequence[int]
) -> list[dict[str, Any]]:
    """List the members for results.json: seed, what varies, and their metrics or the step at which they diverged."""
    return [
        {"seed": member.seed, **dict(member.varied)} | (dict(numbers.get(member, {"diverged_at_step": step})))
        for member, step in zip(members, diverged, strict=True)
    ]


def describe_results(members: Sequence[Member], results: Mapping[str, Any]) -> str:
    """Return the outcome of a run in a line for each point of the grid."""
    lines = []
    for point in points(members):
        whose, count = f"{point}: " if point else "", results.get(join(point, "num_seeds"), 1)
        if not count:
            lines.append(f"{whose}every seed has diverged")
            continue
        loss, accuracy, top5 = (results[join(point, f"test/{name}")] for name in ("loss", "accuracy", "top5_accuracy"))
        spread = ""
        if count > 1:
            low, high = (results[join(point, f"test/accuracy_{end}")] for end in ("low", "high"))
            low, high = max(0.0, low), min(1.0, high)  # an earlier version recorded intervals beyond
            spread = f" ({low:.2%} to {high:.2%}, 95%, n = {count})"
        part = f" (first {results['eval_limit']:,} images)" if "eval_limit" in results else ""
        start = f"{whose}test{part}" if point else f"Test{part}:"
        lines.append(f"{start} loss {loss:.4f}  accuracy {accuracy:.2%}{spread}  top-5 {top5:.2%}")
    return "\n".join(lines)


def rows_of(rows: Sequence[Mapping[str, Any]], members: Sequence[Member], member: Member) -> list[dict[str, Any]]:
    """Return the rows that this member's own run would have; those after it has diverged are left out."""
    if len(members) == 1:
        return [dict(row) for row in rows]
    prefix = join(member.name, "")
    shared = ("step", "epoch", "train/images_per_second")
    return [
        {name: row[name] for name in shared if name in row}
        | {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
        for row in rows
        if any(name.startswith(prefix) for name in row)
    ]
