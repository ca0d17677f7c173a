"""Runs in progress or interrupted, beside finished ones: their validation so far, without tests or verdicts."""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from eanet.compare import page  # noqa: E402
from eanet.compare.arm import Arm  # noqa: E402
from eanet.compare.comparison import check_same_split, differing_fields, distinguishing_fields  # noqa: E402
from eanet.compare.figures.plots import legend_below  # noqa: E402
from eanet.compare.finished_run import comparable_fields, find_directories  # noqa: E402
from eanet.config import stored  # noqa: E402
from eanet.errors import UserError, printable  # noqa: E402
from eanet.run.curves import complete_axes, draw_curve  # noqa: E402
from eanet.run.record import Record  # noqa: E402
from eanet.run.rows import rows_of  # noqa: E402
from eanet.training import members  # noqa: E402

NOTE = (
    "Runs that are not finished stand at different epochs, and what leads now need not lead at the end: there are no "
    "tests and no verdict here, and the test split has not been touched. Compare columns of one epoch only."
)


_METRICS = ("epoch", "val/loss", "val/accuracy", "train/accuracy", "train/images_per_second")


@dataclasses.dataclass(frozen=True, eq=False)
class RunSoFar:
    """What one run has left until now, finished or not."""

    name: str  # its directory's; with the member's where the run has several
    fields: dict[str, Any]  # flat; None where the attention gives a field no effect
    rows: list[dict[str, Any]]  # of metrics.jsonl, those that end an epoch; maybe none yet
    finished: bool
    classes: int | None  # of the data set; None where an older version has not said so

    @property
    def seed(self) -> int:
        return self.fields["seed"]

    @property
    def epoch(self) -> int:
        """Epochs that have ended."""
        return round(self.rows[-1]["epoch"]) if self.rows else 0

    @property
    def progress(self) -> str:
        """Return how far the run is, e.g. 12 of 50."""
        return "finished" if self.finished else f"epoch {self.epoch} of {self.fields['train.epochs']}"

    def accuracy_at(self, epoch: int) -> float | None:
        """Return the validation accuracy at the end of an epoch."""
        return next((row["val/accuracy"] for row in self.rows if round(row["epoch"]) == epoch), None)


def find_runs_so_far(directories: Sequence[str | pathlib.Path]) -> list[RunSoFar]:
    """Read every run under the directories. Raises UserError if there is none, or a record holds something else."""
    runs = []
    for workdir in find_directories(directories):
        record = Record(workdir, primary=False)
        config = record.read("config.json")
        if not isinstance(config, dict):
            raise UserError(f"{workdir}/config.json holds no configuration", exit_code=1)
        config = stored.from_record(config, f"{workdir}/config.json").to_dict()
        networks, rows = members.members_from_config(config), record.rows()
        finished = record.read("results.json") is not None
        names = record.read_note("data.json").get("class_names")
        for member in networks:
            name = printable(workdir.name if len(networks) == 1 else f"{workdir.name}/{member.name}")
            own = [row for row in rows_of(rows, networks, member) if "val/accuracy" in row]
            if not all(type(row.get(metric)) in (int, float) for row in own for metric in _METRICS):
                raise UserError(f"{workdir}/metrics.jsonl has an epoch without {', '.join(_METRICS)}", exit_code=1)
            fields = comparable_fields(members.fields(config, member))
            runs.append(RunSoFar(name, fields, own, finished, len(names) if names else None))
    if not runs:
        raise UserError(f"no run under {', '.join(map(str, directories))}")
    check_same_split(runs)
    return runs


def arms(runs: Sequence[RunSoFar]) -> dict[str, list[RunSoFar]]:
    """Group runs by the fields in which they differ, seed apart; keys are the arms' names."""
    chosen = distinguishing_fields(runs, differing_fields(runs))
    found: dict[str, list[RunSoFar]] = {}
    for run in runs:
        found.setdefault(Arm({field: run.fields[field] for field in chosen}, []).name, []).append(run)
    return {name: sorted(own, key=lambda run: run.seed) for name, own in sorted(found.items())}


def common_epoch(runs: Sequence[RunSoFar]) -> int:
    """Return the last epoch that every run which has begun has ended; 0 if none has."""
    return min((run.epoch for run in runs if run.epoch), default=0)


def table(runs: Sequence[RunSoFar]) -> tuple[list[str], list[list[str]]]:
    """Return columns, and a row for each run: accuracies in percent."""
    common = common_epoch(runs)
    columns = ["arm", "run", "seed", "so far", "validation %", "best validation %", "training %", "images/s"]
    columns += [f"validation % at epoch {common}"] * bool(common)
    rows = []
    for name, own in arms(runs).items():
        for run in own:
            row = [name, run.name, str(run.seed), run.progress]
            if run.rows:
                last = run.rows[-1]
                best = max(one["val/accuracy"] for one in run.rows)
                row += [_percent(x) for x in (last["val/accuracy"], best, last["train/accuracy"])]
                row += [f"{last['train/images_per_second']:.0f}"]
            else:
                row += ["–"] * 4
            rows.append(row + [_percent(run.accuracy_at(common))] * bool(common))
    return columns, rows


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def comma_separated(runs: Sequence[RunSoFar]) -> bytes:
    """Format the table as CSV."""
    columns, rows = table(runs)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue().encode(errors="backslashreplace")


def curves(runs: Sequence[RunSoFar]) -> tuple[Figure, str]:
    """Draw validation loss and accuracy so far, a line for each run, and return a caption as well."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    colors = plt.cm.tab10.colors
    for i, (name, own) in enumerate(arms(runs).items()):
        for j, run in enumerate(run for run in own if run.rows):
            for axis, metric in zip(axes, ("loss", "accuracy"), strict=True):
                values = {row["epoch"]: [row[f"val/{metric}"]] for row in run.rows}
                label = name if j == 0 else None
                draw_curve(axis, metric, values, colors[i % len(colors)], band=False, label=label, alpha=0.8)
                if not run.finished:
                    end, value = run.rows[-1]["epoch"], run.rows[-1][f"val/{metric}"]
                    axis.plot([end], [value], ">", color=colors[i % len(colors)], markersize=7)
    complete_axes(*axes, next((run.classes for run in runs if run.classes), None), "epoch")
    axes[0].set(title="Validation loss (nats)", ylabel="loss")
    axes[1].set(title="Validation accuracy", ylabel="accuracy")
    legend_below(figure, axes[1], columns=3)
    where = "; ".join(f"{run.name}: {run.progress}" for run in runs if not run.finished)
    return figure, f"Validation so far, a line for each run; arrows: not finished ({where or 'none'})."


def write(runs: Sequence[RunSoFar], out: pathlib.Path) -> None:
    """Write the table, the curves and the page, each whole or not at all."""
    drawn = page.draw_in_styles(lambda: {"unfinished": curves(runs)})
    columns, rows = table(runs)
    text = page.templates().get_template("unfinished.html.jinja").render(
        columns=columns, rows=rows, note=NOTE, drawn=[(name, own.caption, own.uris) for name, own in drawn.items()]
    )  # fmt: skip
    files = {"unfinished.html": text.encode(errors="backslashreplace"), "unfinished.csv": comma_separated(runs)}
    page.write_files(out, files | {f"{name}.svg": own.svg["light"] for name, own in drawn.items()})
