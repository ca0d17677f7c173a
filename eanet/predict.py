"""Classify images with a trained run: python -m eanet.predict DIR IMAGE… [--json].

An image of any size and kind is brought to the size of the training images: its shorter side is resized, the middle is
cut out. Prints the five likeliest classes with their probabilities, of a run with several seeds the mean over them and
how many agree. A file that cannot be read is named on stderr, the others continue, and the exit code is 1.
"""

import json
import sys
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eanet import cache, cli
from eanet.data.images import read_image
from eanet.errors import UserError, printable
from eanet.run.interruption import Interruption
from eanet.run.trained import TrainedRun, load_run

_TOP = 5


def describe(run: TrainedRun, probabilities: np.ndarray) -> dict[str, Any]:
    """Return the likeliest classes of an image by their mean probability [networks, classes], and who agrees."""
    mean = probabilities.mean(axis=0)
    order = np.argsort(-mean, kind="stable")[:_TOP]
    first = probabilities.argmax(axis=1)
    return {
        "top": [{"class": run.class_names[i], "probability": float(mean[i])} for i in order],
        "networks": len(probabilities),
        "agree": int(np.sum(first == order[0])),
    }


def _row(name: str, found: dict[str, Any]) -> list[Text]:
    top = "  ".join(f"{printable(one['class'])} {one['probability']:.1%}" for one in found["top"])
    agreement = [Text(f"{found['agree']} of {found['networks']}")] if found["networks"] > 1 else []
    return [Text(printable(name)), Text(top), *agreement]


def main() -> None:
    """Parse the command line, classify and print."""
    parser = cli.Parser("python -m eanet.predict", __doc__)
    parser.add_argument("directory", metavar="DIR", help="a run's directory")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--json", action="store_true", help="a JSON object a line instead of a table")
    arguments = parser.parse_args()
    cli.check_directory("DIR", arguments.directory, new=False)
    cache.keep_compiled_programs()
    run = load_run(arguments.directory)
    names, images, failed = [], [], 0
    for path in arguments.images:
        try:
            images.append(read_image(path, run.experiment.image_shape))
            names.append(path)
        except UserError as error:
            failed += 1
            print(f"error: {printable(str(error))}", file=sys.stderr)
    if images:
        found = [describe(run, one) for one in np.swapaxes(run.predict(np.stack(images)), 0, 1)]
        if arguments.json:
            for name, one in zip(names, found, strict=True):
                print(json.dumps({"image": name} | one))
        else:
            console = Console(highlight=False)
            table = Table("image", "likeliest classes", *["agree"] * (len(run.networks) > 1), box=None)
            for name, one in zip(names, found, strict=True):
                table.add_row(*_row(name, one))
            console.print(table)
    if failed:
        raise UserError(f"{failed} of {len(arguments.images)} images could not be read", exit_code=1)


if __name__ == "__main__":
    with Interruption(may_exit=True):
        sys.exit(cli.run(main))
