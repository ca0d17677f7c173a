"""Print what the network sees in training and in evaluation under the presets of configs/reproduction.py.

python -m benchmarks.input_statistics [--data-dir=DIR] [--images=10000]
"""

import argparse

import jax

from configs import reproduction
from eanet.data import datasets as data
from eanet.data.augmentation import Preprocessing
from eanet.data.guards import InputStatistics, input_statistics

_BATCH = 1000  # images at a time, so that their floats fit into a small memory


def _row(name: str, statistics: list[InputStatistics]) -> str:
    """Average over equally large batches; the deviation is about the common mean."""
    count = len(statistics)
    zeros = sum(s.zeros for s in statistics) / count
    mean = sum(s.mean for s in statistics) / count
    square = sum(s.deviation**2 + s.mean**2 for s in statistics) / count
    return f"| {name} | {zeros:.1%} | {mean:.3f} | {(square - mean**2) ** 0.5:.3f} |"


def main() -> None:
    """Parse the command line and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input_statistics", description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", default="", help="TFDS directory (default: TFDS's own)")
    parser.add_argument("--images", type=int, default=10_000, help="first N training images, a multiple of 1000")
    arguments = parser.parse_args()
    config = reproduction.get_config("keras3")
    config.data.dir = arguments.data_dir
    dataset = data.load(config.data)
    print("| input | exactly 0 | mean | deviation |\n| --- | ---: | ---: | ---: |")
    rows = {}
    for name, arm, overrides in (
        ("training, keras2021", "keras2021", {}),
        ("training, keras3", "keras3", {}),
        ("training, keras3, without rotation and zoom", "keras3", {"rotation": 0.0, "zoom": 0.0}),
    ):
        augmentation = reproduction.get_config(arm).augment.to_dict() | overrides
        preprocessing = Preprocessing(dataset.mean, dataset.deviation, **augmentation)
        seen = [
            input_statistics(
                jax.random.fold_in(jax.random.key(0), start),
                dataset.train.images[start : start + _BATCH],
                preprocessing,
            )
            for start in range(0, arguments.images, _BATCH)
        ]
        rows[name] = [batch["training"] for batch in seen]
        rows["evaluation, both"] = [batch["evaluation"] for batch in seen]
    for name in sorted(rows):
        print(_row(name, rows[name]))


if __name__ == "__main__":
    main()
