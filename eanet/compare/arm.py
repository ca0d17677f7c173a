"""An arm of a comparison: runs that are the same but for their seed."""

import dataclasses
from typing import Any

from eanet.compare.finished_run import FinishedRun
from eanet.statistics import Estimate
from eanet.training import metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """Runs that differ in their seed only, or in fields that --by leaves out."""

    by: dict[str, Any]
    runs: list[FinishedRun]

    @property
    def name(self) -> str:
        return self.name_without()

    def name_without(self, *left_out: str) -> str:
        """Name the arm by its fields but for some."""
        by = {field: value for field, value in self.by.items() if field not in left_out}
        known = {field: value for field, value in by.items() if value is not None} or dict.fromkeys(by, "–")
        return ", ".join(f"{field.rpartition('.')[2]}={_shown(value)}" for field, value in known.items()) or "all runs"

    def values(self, metric: str) -> dict[int, float]:
        """Return a metric by seed; runs that do not have it are left out."""
        return {run.seed: run.results[metric] for run in self.runs if metric in run.results}

    def estimate(self, metric: str) -> Estimate | None:
        values = list(self.values(metric).values())
        return metrics.estimate(metric, values) if values else None


def _shown(value: Any) -> str:
    return ("+".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
