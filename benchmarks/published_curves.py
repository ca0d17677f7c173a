"""Curves of a finished run beside the published ones: python -m benchmarks.published_curves RUN [--out=SVG].

The published ones are the 50 epochs of today's page of the Keras example, as its log gives them, in
docs/results/published/keras3.csv.
"""

import csv
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from eanet import cli  # noqa: E402
from eanet.errors import UserError  # noqa: E402
from eanet.run.curves import complete_axes, draw_curve  # noqa: E402
from eanet.run.record import Record  # noqa: E402

PUBLISHED = pathlib.Path(__file__).parents[1] / "docs/results/published/keras3.csv"
_CLASSES = 100
_STYLES = {"train": "--", "val": "-"}


def published_rows() -> list[dict[str, float]]:
    """Return the published log, a row an epoch, under the names of metrics.jsonl."""
    with PUBLISHED.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def draw(rows: list[dict[str, float]], title: str, path: pathlib.Path) -> None:
    """Draw loss and accuracy of rows that end an epoch beside the published ones, as an SVG."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for color, (name, some) in zip(
        ("C0", "C3"), ((title, rows), ("published, Keras 3", published_rows())), strict=True
    ):
        for axis, metric in zip(axes, ("loss", "accuracy"), strict=True):
            for split, style in _STYLES.items():
                values = {row["epoch"]: [row[f"{split}/{metric}"]] for row in some}
                label = name if split == "val" else None
                draw_curve(axis, metric, values, color, linestyle=style, label=label)
    complete_axes(*axes, _CLASSES, "epoch (solid: validation, dashed: training)")
    axes[0].set(title="Loss (nats, with label smoothing)", ylabel="loss")
    axes[1].set(title="Accuracy", ylabel="accuracy")
    axes[0].legend()
    # Text as text, not as outlines; the salt and the missing date make the same curves the same bytes.
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "eanet"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Parse the command line and draw."""
    parser = cli.Parser("python -m benchmarks.published_curves", __doc__)
    parser.add_argument("run", metavar="RUN", help="a run's directory")
    parser.add_argument("--title", default="", help="what the run is called (default: its directory's name)")
    parser.add_argument("--out", default="", help="SVG file (default: RUN/../curves.svg)")
    arguments = parser.parse_args()
    cli.check_directory("RUN", arguments.run, new=False)
    record = Record(arguments.run, primary=False)
    rows = [row for row in record.rows() if "val/loss" in row]
    if not rows:
        raise UserError(f"{arguments.run} has no finished epoch")
    out = pathlib.Path(arguments.out or record.workdir.parent / "curves.svg")
    draw(rows, arguments.title or record.workdir.name, out)
    print(out)


if __name__ == "__main__":
    sys.exit(cli.run(main))
