"""W&B's dashboard as code: python -m eanet.dashboard [--entity=ENTITY] [--project=PROJECT] [--dry-run].

Saves a workspace (a saved view) and a report that compare the training runs of a project by attention, heads,
memory, cost and optimizer, and prints their addresses. Every call saves new ones. --dry-run prints what would be
saved as JSON instead, without a network or an account.
"""

import itertools
import json
import sys
from typing import Any

from eanet import cli
from eanet.attention import ATTENTIONS
from eanet.config import rules
from eanet.errors import UserError

NAME = "External attention against self-attention"
TRAINING = "Metric('JobType') == 'train'"
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")  # safe for the colour-blind
COLORS = dict(zip(ATTENTIONS, itertools.cycle(_PALETTE), strict=False))
_MAX_GROUPS = 100  # lines or bars of a plot; W&B's own limit is 10

# Names that W&B has from the program itself: nested fields of the configuration, and keys of rows and results.
# A sweep's flat copies (`config.model.num_heads`) exist in its own runs only.
ATTENTION, HEADS, MEMORY_SIZE = "model.attention", "model.num_heads", "model.memory_size"
BEST = "val/accuracy_best"  # what choices are made by; test accuracy is reported and chooses nothing


def build(entity: str, project: str) -> tuple[Any, Any]:
    """Build the workspace and the report, without a network.

    Their ids are fixed, so that what is saved is what a dry run prints.
    Raises UserError if wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(f"the dashboard needs wandb-workspaces: pip install -e '.[dashboard]' ({error})", 1) from error
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[ws.Section(name, panels, is_open=True) for name, (_, panels) in _sections(wr).items()],
        runset_settings=ws.RunsetSettings(
            filters=TRAINING,
            groupby=[ws.Config(ATTENTION), ws.Config(HEADS)],
            order=[ws.Ordering(ws.Summary(BEST), ascending=False)],
            group_colors=COLORS,
        ),
    )
    workspace._internal_runset_id = "runs"
    _number([panel for section in workspace.sections for panel in section.panels])
    return workspace, _report(wr, entity, project)


def _report(wr: Any, entity: str, project: str) -> Any:
    blocks: list[Any] = [wr.TableOfContents()]
    grids = []
    test = wr.BarPlot(title="Test accuracy (mean ± deviation)", metrics=["test/accuracy"], **_by(wr.Config(ATTENTION)))
    test_text = "Each finished run touches the test split once, at its end. Nothing above is chosen by it."
    for name, (text, panels) in (_sections(wr) | {"Test": (test_text, [test])}).items():
        # A runset without entity and project shows the report's own project, and needs no look-up to be built.
        runset = wr.Runset(
            name="Training runs",
            filters=TRAINING,
            groupby=[f"config.{ATTENTION}", f"config.{HEADS}"],
            order=[wr.OrderBy(wr.SummaryMetric(BEST), ascending=False)],
        )
        runset._id = f"runs{len(grids) + 1}"
        grids.append(wr.PanelGrid(runsets=[runset], panels=panels))
        blocks += [wr.H2(name), wr.P(text), grids[-1]]
    _number([panel for grid in grids for panel in grid.panels])
    description = "Bands are one standard deviation. Choices use validation accuracy."
    return wr.Report(entity=entity, project=project, title=NAME, description=description, blocks=blocks, width="fluid")


def _sections(wr: Any) -> dict[str, tuple[str, list[Any]]]:
    """Return each section's text and panels."""

    def over_epochs(metric: str, title: str, group: Any) -> Any:
        return wr.LinePlot(title=title, x="epoch", y=[metric], **_by(group))

    def accuracy_against(x: Any, title: str) -> Any:
        return wr.ScatterPlot(title=f"Best validation accuracy against {title}", x=x, y=wr.SummaryMetric(BEST))

    def column(metric: Any, log: bool | None = None) -> Any:
        return wr.ParallelCoordinatesPlotColumn(metric, log=log)

    attention = wr.Config(ATTENTION)
    return {
        "Attention": (
            "By attention, a mean is over all runs with it, whatever else differs. By arm (W&B's group: everything "
            "but the seed), it is over seeds alone.",
            [
                over_epochs("val/accuracy", "Validation accuracy by attention (mean ± deviation)", attention),
                over_epochs("val/loss", "Validation loss by attention (mean ± deviation)", attention),
                wr.BarPlot(title="Best validation accuracy (mean ± deviation)", metrics=[BEST], **_by(attention)),
                over_epochs("val/accuracy", "Validation accuracy by arm (mean ± deviation over seeds)", "Group"),
                over_epochs("val/loss", "Validation loss by arm (mean ± deviation over seeds)", "Group"),
            ],
        ),
        "Heads and memory": (
            "External attention has num_heads * dim_coefficient effective heads. Memory size 0 stands for "
            "dim // dim_coefficient slots; the other attentions have no memory and ignore the field.",
            [
                accuracy_against(wr.Config(HEADS), "heads"),
                accuracy_against(wr.Config(MEMORY_SIZE), "memory size (0 = dim // dim_coefficient)"),
            ],
        ),
        "Cost": (
            "Throughput depends on the machine: compare runs of one only.",
            [
                accuracy_against(wr.Config("parameters"), "parameters"),
                accuracy_against(wr.Config("mmac"), "million multiply-adds per image"),
                accuracy_against(wr.SummaryMetric("images_per_second"), "images per second in training"),
                over_epochs("train/images_per_second", "Images per second in training, by attention", attention),
            ],
        ),
        "Optimizer": (
            "What the search over the optimizer's fields has found, on validation accuracy.",
            [
                wr.ParallelCoordinatesPlot(
                    title="Optimizer search",
                    columns=[
                        column(attention),
                        column(wr.Config("optimizer.learning_rate"), log=True),
                        column(wr.Config("optimizer.weight_decay"), log=True),
                        column(wr.Config("model.mlp_dropout")),
                        column(wr.SummaryMetric(BEST)),
                    ],
                ),
                wr.ParameterImportancePlot(with_respect_to=BEST),
            ],
        ),
        "Runs": ("Where the runs differ.", [wr.RunComparer(diff_only="split")]),
    }


def _by(group: Any) -> dict[str, Any]:
    style = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev", "max_runs_to_show": _MAX_GROUPS}
    return {"groupby": group} | style


def _number(panels: list[Any]) -> None:
    """Replace the library's random ids."""
    for number, panel in enumerate(panels, start=1):
        panel._id = f"panel{number}"


def describe(entity: str, project: str) -> dict[str, Any]:
    """Return as plain data what `save` would send."""
    workspace, report = build(entity, project)
    models = {"workspace": workspace._to_model(), "report": report._to_model()}
    return {name: json.loads(model.model_dump_json(by_alias=True, exclude_none=True)) for name, model in models.items()}


def save(entity: str, project: str) -> None:
    """Save a new workspace and a new report, and print their addresses.

    Raises UserError if W&B cannot be had or refuses.
    """
    build(entity, project)  # says what is missing before anybody is asked to log in
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))  # we say the same in fewer lines
    try:
        if not wandb.login(prompt=False):
            raise UserError("no W&B API key, or WANDB_MODE switches W&B off; `wandb login` once, or --dry-run", 1)
        entity = entity or wandb.Api().default_entity
        if not entity:
            raise UserError("--entity is missing: the W&B account has no default", 1)
        workspace, report = build(entity, project)
        print(f"report: {report.save().url}")  # first: it creates the project if there is none
        print(f"workspace: {workspace.save().url}")
    except UserError:
        raise
    except Exception as error:  # the client has no common class of error, and a server may answer anything
        where = f"{entity or 'the default entity'}/{project}"
        hint = "is the server reachable, and may you write there?"
        raise UserError(f"W&B did not save the dashboard of {where}: {str(error).rstrip('.')}; {hint}", 1) from error


def main() -> None:
    """Parse the command line, and save or print."""
    parser = cli.Parser("python -m eanet.dashboard", __doc__)
    parser.add_argument("--entity", default="", help="user or team that owns the project; default: the account's own")
    parser.add_argument("--project", default="eanet-jax", help="default: eanet-jax")
    parser.add_argument("--dry-run", action="store_true", help="print what would be saved as JSON")
    arguments = parser.parse_args()
    for name in ("entity", "project"):
        value, (check, accepted) = getattr(arguments, name), rules.RULES[f"wandb.{name}"]
        if not check(value):
            raise UserError(f"--{name}={value!r}; accepted: {accepted}")
    if arguments.dry_run:
        print(json.dumps(describe(arguments.entity, arguments.project), indent=1, sort_keys=True, ensure_ascii=False))
    else:
        save(arguments.entity, arguments.project)


if __name__ == "__main__":
    sys.exit(cli.run(main))
