"""See what is in a data set: python -m eanet.data DIR|NAME [--config.data.image_size=64] [--out=DIR].

DIR is a folder of images by class, NAME a TFDS data set or digits. Fields of the configuration follow, as in a run.
Prints counts by class and split, sizes, mean and deviation, and images that occur more than once; writes
contact_sheet.png, the first images of each class, and augmented.png, eight images as training draws them.
"""

import pathlib
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eanet import cli
from eanet.data import datasets, overview
from eanet.data.augmentation import Preprocessing
from eanet.data.folder import FOLDER, SPLITS
from eanet.errors import UserError, printable
from eanet.run.interruption import Interruption

_DEFAULT = pathlib.Path(__file__).parents[2] / "configs" / "default.py"


def _table(dataset: datasets.Dataset, counts: dict) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("class")
    for split in SPLITS:
        table.add_column(split, justify="right")
    for i, name in enumerate(dataset.class_names):
        table.add_row(Text(printable(name)), *(f"{counts[split][i]:,}" for split in SPLITS))
    table.add_row("all", *(f"{counts[split].sum():,}" for split in SPLITS))
    return table


def _lines(dataset: datasets.Dataset, found: overview.Overview) -> list[str]:
    """Say sizes, statistics and repetitions."""
    height, width, channels = dataset.train.images.shape[1:]
    numbers = [", ".join(f"{x:.2f}" for x in values) for values in (dataset.mean, dataset.deviation)]
    lines = [
        f"images: {height}×{width}, {channels} {'channel' if channels == 1 else 'channels'}",
        f"mean {numbers[0]}; deviation {numbers[1]}, of all training records, validation included",
    ]
    for split, count in found.repeated.items():
        if count:
            lines.append(f"warning: {_images(count)} of {split}, pixel by pixel as another one of it")
    for (first, second), count in found.duplicates.items():
        if count:
            lines.append(f"warning: {_images(count)} of {second}, pixel by pixel as one of {first}")
    return lines if len(lines) > 2 else [*lines, "no image occurs twice, pixel by pixel"]


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def main() -> None:
    """Parse the command line, print and write."""
    parser = cli.Parser("python -m eanet.data", __doc__)
    parser.add_argument("source", metavar="DIR|NAME", help="a folder of images by class, or a data set's name")
    parser.add_argument("--out", default="", help="directory of the pictures (default: overview/NAME)")
    arguments, fields = parser.parse_known_args()
    own = [f"--config.data.name={arguments.source}"]
    if pathlib.Path(arguments.source).is_dir():
        own = [f"--config.data.name={FOLDER}", f"--config.data.dir={arguments.source}"]
    _, config = cli.read_config([f"--config={_DEFAULT}", *own, *fields])
    out = pathlib.Path(arguments.out or pathlib.Path("overview", pathlib.Path(arguments.source).resolve().name))
    cli.check_directory("--out", out)
    dataset = datasets.load(config.data)
    found = overview.describe(dataset)
    console = Console(highlight=False)
    console.print(_table(dataset, found.counts))
    for line in _lines(dataset, found):
        console.print(line, markup=False, soft_wrap=True)
    preprocessing = Preprocessing(dataset.mean, dataset.deviation, **config.augment.to_dict())
    pictures = {
        "contact_sheet.png": overview.contact_sheet(dataset),
        "augmented.png": overview.augmented_sheet(dataset, preprocessing),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            picture.save(out / name)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror or error}", exit_code=1) from error
    print(f"{out / 'contact_sheet.png'} and augmented.png")


if __name__ == "__main__":
    with Interruption(may_exit=True):
        sys.exit(cli.run(main))
