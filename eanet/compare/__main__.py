"""Compare runs: python -m eanet.compare DIR… [--baseline=model.attention=self] [--margin=1.0] [--out=DIR].

Groups all finished runs under the directories by the fields in which they differ, seed apart, prints the tables and
writes comparison.csv, comparison.md, pictures and report.html, one file that needs no server and no network.
"""

import pathlib
import sys
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from eanet import cli
from eanet.compare import comparison, page, report, unfinished
from eanet.compare import finding as comparison_finding
from eanet.compare import table as comparison_table
from eanet.compare.explanations import explanations
from eanet.compare.finished_run import find_runs
from eanet.errors import UserError


def write(result: comparison.Comparison, out: pathlib.Path) -> None:
    """Write the tables, the pictures (SVG) and the report, each whole or not at all."""
    drawn = report.pictures(result)
    svgs = {f"{name}.svg": picture.svg["light"] for name, picture in drawn.items()}
    captions = {f"{name}.svg": picture.caption for name, picture in drawn.items()}
    files = {
        "comparison.csv": _bytes(comparison_table.comma_separated(result)),
        "comparison.md": _bytes(comparison_table.markdown(result, captions)),
        "report.html": _bytes(report.html(result, drawn, out)),
        **svgs,
    }
    page.write_files(out, files)


def _bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # JSON can hold halves of characters


def _show_unfinished(directories: Sequence[str], out: pathlib.Path) -> None:
    runs = unfinished.find_runs_so_far(directories)
    cli.check_directory("--out", out)
    columns, rows = unfinished.table(runs)
    console = cli.console()
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        shown.add_column(column, justify="left" if i in (0, 1, 3) else "right", overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    console.print(shown)
    print(f"\n{unfinished.NOTE}")
    unfinished.write(runs, out)
    print(f"\n{out / 'unfinished.html'} and, beside it, unfinished.csv and the curves")


def main() -> None:
    """Parse the command line, print the tables and write the files."""
    parser = cli.Parser("python -m eanet.compare", __doc__)
    parser.add_argument("directories", nargs="+", metavar="DIR", help="directories of runs, or runs")
    parser.add_argument("--baseline", default="", help="an arm by its fields (default: the first)")
    parser.add_argument("--by", default="", help="fields that name the arms (default: those in which runs differ)")
    parser.add_argument(
        "--margin", default="", help="points of test accuracy within which arms are equivalent: tests that too"
    )
    parser.add_argument(
        "--variance", action="store_true", help="a table of the spread by source, of runs that differ in config.fixed"
    )
    parser.add_argument(
        "--unfinished", action="store_true", help="validation so far of all runs, going on or not; no tests, no verdict"
    )
    parser.add_argument("--out", default="", help="directory of the files (default: DIR/comparison)")
    arguments = parser.parse_args()
    out = pathlib.Path(arguments.out or pathlib.Path(arguments.directories[0]) / "comparison")
    for directory in arguments.directories:
        cli.check_directory("DIR", directory, new=False)
    if arguments.unfinished:
        for flag in ("baseline", "by", "margin", "variance"):
            if getattr(arguments, flag):
                raise UserError(f"--unfinished and --{flag}: accepted without it, as runs in progress are not tested")
        _show_unfinished(arguments.directories, out)
        return
    runs, notes = find_runs(arguments.directories)
    cli.check_directory("--out", out)
    by = [field for field in arguments.by.split(",") if field]
    margin = cli.positive_number("--margin", arguments.margin, 100) / 100 if arguments.margin else 0.0
    result = comparison.compare(runs, by, arguments.baseline, notes, margin, arguments.variance)
    print(f"{comparison_finding.finding(result)}\n")
    console = cli.console()
    for grid in comparison_table.grids(result):
        console.print(comparison_table.terminal(grid, console.width))
        console.print()
    for line in explanations(result):
        console.print(f"- {line}", markup=False, soft_wrap=True)
    write(result, out)
    print(f"\n{out / 'report.html'} and, beside it, comparison.md, comparison.csv and the pictures")


if __name__ == "__main__":
    sys.exit(cli.run(main))
