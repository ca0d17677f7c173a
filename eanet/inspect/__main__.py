"""See what trained runs do: python -m eanet.inspect DIR… [--images=0,17,cat.png] [--out=DIR].

Draws attention maps of the chosen images, describes slots, heads and memories in numbers, removes each slot, head and
block's attention on images of the validation split, and draws confusion matrices. Writes inspection.html, one file
that needs no server and no network, and pictures beside it. Several runs of one data set stand side by side.
"""

import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from eanet import cache, cli
from eanet.compare import page as shared
from eanet.data.datasets import Dataset
from eanet.data.images import read_image
from eanet.errors import UserError, printable
from eanet.inspect import figures, page, removals
from eanet.inspect.inspection import Inspection, inspect
from eanet.inspect.maps import over_image, png
from eanet.run import tracking
from eanet.run.interruption import Interruption
from eanet.run.trained import TrainedRun, load_run

_IMAGES = "0,1,2"
_EXAMPLES = 1000
PAGE = "inspection.html"


def names_of(runs: Sequence[TrainedRun]) -> list[str]:
    """Name runs by their directories, with as many of the folders above as tell them apart."""
    paths = [run.workdir.resolve() for run in runs]
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return [printable(name) for name in names]
    raise UserError(f"{runs[0].workdir} was given twice; accepted: different runs")


def check_together(runs: Sequence[TrainedRun]) -> None:
    """Raise UserError if runs cannot stand side by side because they saw different images or classes."""
    first = runs[0]
    for other in runs[1:]:
        for what, one, two in (
            ("config.data.name", first.config.data.name, other.config.data.name),
            ("the image shape", first.experiment.image_shape, other.experiment.image_shape),
            ("config.data.validation_fraction", *(run.config.data.validation_fraction for run in (first, other))),
        ):
            if one != two:
                raise UserError(
                    f"{other.workdir}: {what} is {two}, of {first.workdir} it is {one}; accepted: runs of one data set"
                )


def choose_images(text: str, run: TrainedRun, dataset: Dataset) -> list[tuple[str, np.ndarray]]:
    """Return titles and uint8 images: numbers are test images, anything else is an image file.

    Raises UserError for a number that no test image has, and for a file that is not an image.
    """
    chosen = []
    for part in (part.strip() for part in text.split(",") if part.strip()):
        if part.isascii() and part.isdigit():
            if int(part) >= len(dataset.test):
                raise UserError(f"--images={part}; accepted: test images 0 to {len(dataset.test) - 1}, or image files")
            label = dataset.class_names[dataset.test.labels[int(part)]]
            chosen.append((f"test image {part}: {label}", dataset.test.images[int(part)]))
        else:
            chosen.append((printable(pathlib.Path(part).name), read_image(part, run.experiment.image_shape)))
    if not chosen:
        raise UserError(f"--images={text} names no image; accepted: e.g. 0,17,cat.png")
    return chosen


def choose_queries(text: str, runs: Sequence[TrainedRun]) -> list[int]:
    """Return the indices of the query tokens; raise UserError if a run has no such token."""
    queries = []
    for part in (part.strip() for part in text.split(",") if part.strip()):
        for run in runs:
            tokens = (run.experiment.image_shape[0] // run.config.model.patch_size) ** 2
            if not (part.isascii() and part.isdigit() and int(part) < tokens):
                raise UserError(f"--queries={part}; accepted: tokens 0 to {tokens - 1} of {run.workdir}")
        queries.append(int(part))
    return queries


def write(
    inspections: Sequence[Inspection], dataset: Dataset, images: Sequence[tuple[str, np.ndarray]], out: pathlib.Path
) -> list[pathlib.Path]:
    """Write the page and the pictures, each whole or not at all, and return the places of the maps."""
    drawn = shared.draw_in_styles(lambda: figures.draw_all(inspections, dataset))
    maps = {
        f"maps/{_file_name(one.name, network.name, f'image_{i}', tiles.name)}.png": png(over_image(tiles, image))
        for one in inspections
        for network, by_image in zip(one.run.networks, one.tiles, strict=False)
        for i, (image_tiles, (_, image)) in enumerate(zip(by_image, images, strict=True))
        for tiles in image_tiles
    }
    files = {PAGE: page.html(inspections, dataset, images, drawn).encode(errors="backslashreplace")}
    files |= {f"{name}.svg": picture.svg["light"] for name, picture in drawn.items()} | maps
    shared.write_files(out, files)
    return [out / name for name in maps]


def _file_name(*parts: str) -> str:
    return "-".join(part.replace("/", "-") for part in parts)


def _print(inspections: Sequence[Inspection]) -> None:
    console = cli.console()
    for one in inspections:
        columns, rows = one.table()
        table = Table(*columns, title=f"{one.name}: accuracy {one.mistakes.correct.mean():.2%}", title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        for line in one.missing():
            console.print(f"- {line}", markup=False, soft_wrap=True)


def main() -> None:
    """Parse the command line, inspect and write."""
    parser = cli.Parser("python -m eanet.inspect", __doc__)
    parser.add_argument("directories", nargs="+", metavar="DIR", help="directories of runs of one data set")
    parser.add_argument("--images", default=_IMAGES, help=f"test images by number, or files (default: {_IMAGES})")
    parser.add_argument("--queries", default="", help="of maps between tokens: whose (default: 4 by 4 tokens)")
    parser.add_argument(
        "--examples", default=str(_EXAMPLES), help=f"validation images for removals; 0 = all (default: {_EXAMPLES})"
    )
    parser.add_argument("--out", default="", help="directory of the files (default: DIR/inspection)")
    parser.add_argument("--wandb", action="store_true", help="add the maps to the runs in W&B too")
    arguments = parser.parse_args()
    for directory in arguments.directories:
        cli.check_directory("DIR", directory, new=False)
    out = pathlib.Path(arguments.out or pathlib.Path(arguments.directories[0]) / "inspection")
    cli.check_directory("--out", out)
    if not (arguments.examples.isascii() and arguments.examples.isdigit()):
        raise UserError(f"--examples={arguments.examples}; accepted: a number of images, 0 = all")
    cache.keep_compiled_programs()
    runs = [load_run(directory) for directory in arguments.directories]
    names = names_of(runs)
    check_together(runs)
    dataset = runs[0].load_data()
    images = choose_images(arguments.images, runs[0], dataset)
    queries = choose_queries(arguments.queries, runs)
    examples = int(arguments.examples) or len(dataset.validation)
    pixels = np.stack([image for _, image in images])
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), disable=not sys.stdout.isatty()
    )
    inspections = []
    with bar:
        for run, name in zip(runs, names, strict=True):
            total = removals.evaluations(run, dataset.validation[:examples])
            task = bar.add_task(name, total=max(total, 1))
            done = lambda count, task=task: bar.advance(task, count)  # noqa: E731
            inspections.append(inspect(run, name, pixels, dataset.validation, examples, queries, done))
    maps = write(inspections, dataset, images, out)
    _print(inspections)
    print(f"\n{out / PAGE} and, beside it, the pictures")
    if arguments.wandb:
        for one in inspections:
            own = [path for path in maps if path.name.startswith(_file_name(one.name, ""))]
            tracking.add_pictures(one.run.config.to_dict(), one.run.workdir, "inspection", own)


if __name__ == "__main__":
    with Interruption(may_exit=True):
        sys.exit(cli.run(main))
