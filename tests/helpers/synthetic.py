"""Make a tiny prepared TFDS data set, as `python tests/synthetic.py DIR FORMAT` (it needs TensorFlow).

It is called cifar100 and has its features, so that everything that reads the real one reads it; but its
images are 8×8, it has 10 classes in 4 superclasses, and its records lie in another order than their ids.
"""

import os
import sys

import numpy as np

COUNTS = {"train": 60, "test": 24}
SIDE, CLASSES, SUPERCLASSES = 8, 10, 4
VERSION = "3.0.2"
CLASS_NAMES = tuple(f"class {chr(ord('a') + i)}" for i in range(CLASSES))
SUPERCLASS_NAMES = tuple(f"group {i}" for i in range(SUPERCLASSES))
# No formula that a reader could hit by accident, such as class % 4.
SUPERCLASS_OF = (2, 0, 3, 3, 1, 2, 0, 1, 1, 0)


def make_records(split: str) -> list[dict]:
    """Return the records of a split in the order of their ids."""
    rng = np.random.default_rng(sorted(COUNTS).index(split))
    records = []
    for i in range(COUNTS[split]):
        label = int(rng.integers(CLASSES)) if i >= CLASSES else i  # every class occurs
        # Each channel has a range of its own, so that swapped channels would show in mean and deviation.
        image = rng.integers([0, 40, 100], [120, 200, 256], (SIDE, SIDE, 3), dtype=np.uint8)
        records.append({"id": f"{split}_{i:05d}", "image": image, "label": label, "coarse_label": SUPERCLASS_OF[label]})
    return records


def write(directory: str, file_format: str) -> None:
    """Store the data set below `directory` as TFDS would have prepared it."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=CLASS_NAMES),
            "coarse_label": tfds.features.ClassLabel(names=SUPERCLASS_NAMES),
        }
    )
    tfds.dataset_builders.store_as_tfds_dataset(
        name="cifar100",
        version=VERSION,
        features=features,
        # TFDS shuffles by a hash of the key, as it does with the real one.
        split_datasets={split: [(r["id"], r) for r in make_records(split)] for split in COUNTS},
        data_dir=directory,
        file_format=file_format,
    )


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    write(*sys.argv[1:])
