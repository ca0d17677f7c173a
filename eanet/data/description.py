"""What a network needs to know of the data set that it was trained on, without its images."""

from typing import Any

import numpy as np

from eanet.data.datasets import Dataset, Split

_NAMES = ("mean", "deviation", "class_names", "superclass_names", "superclass_of")


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return a JSON-able description: the statistics of the input, names, sizes and numbers of images."""
    height, width, channels = dataset.train.images.shape[1:]
    return {name: list(getattr(dataset, name)) for name in _NAMES} | {
        "digest": dataset.digest,
        "image_shape": [height, width, channels],
        "images": {split: len(getattr(dataset, split)) for split in ("train", "validation", "test")},
    }


def without_images(description: dict[str, Any]) -> Dataset:
    """Return the data set of a description with black images that take no memory, for what depends on shapes only.

    Raises ValueError if it is not a description.
    """
    try:
        shape = tuple(int(size) for size in description["image_shape"])
        splits = {
            split: Split(
                np.broadcast_to(np.uint8(0), (int(description["images"][split]), *shape)),
                np.broadcast_to(np.int32(0), (int(description["images"][split]),)),
            )
            for split in ("train", "validation", "test")
        }
        known = {name: tuple(description[name]) for name in _NAMES}
        return Dataset(**splits, **known, digest=description.get("digest", ""))
    except (KeyError, TypeError) as error:
        raise ValueError(f"it describes no data set: {error!r}") from error
