"""Data sets as uint8 arrays, in three splits: TFDS by name, folders of images, and scikit-learn's digits."""

import dataclasses
from typing import Any

import ml_collections
import numpy as np

from eanet.data.channels import describe_channels
from eanet.data.folder import FOLDER, load_folder
from eanet.data.tfds_sets import EMBEDDED, load_tfds
from eanet.errors import UserError


@dataclasses.dataclass(frozen=True)
class Split:
    """Images uint8 [examples, height, width, channels] and labels int32 [examples]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, examples: slice | np.ndarray) -> "Split":
        return Split(self.images[examples], self.labels[examples])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Three splits and what is known of them."""

    train: Split
    validation: Split  # the last part of the data set's own training records
    test: Split
    mean: tuple[float, ...]  # per channel, over all training records, validation included
    deviation: tuple[float, ...]  # per channel, of the population
    class_names: tuple[str, ...]
    superclass_names: tuple[str, ...] = ()  # empty where the data set has none
    superclass_of: tuple[int, ...] = ()  # the superclass of each class
    digest: str = ""  # of the files of a folder; empty for what has a name and a version


_TUPLES = ("mean", "deviation", "class_names", "superclass_names", "superclass_of")  # of Dataset, as JSON has lists


def load(config: ml_collections.ConfigDict) -> Dataset:
    """Load what `config.data` names and split it as the Keras example does.

    Raises UserError if the data set is unknown, cannot be had, or leaves a split empty.
    """
    arrays, meta = _read(config)
    records = Split(arrays["train_images"], arrays["train_labels"])
    boundary = int(len(records) * (1 - config.validation_fraction))  # Keras's rounding
    own = "validation_images" in arrays
    if own:
        boundary = len(records)
    elif not 0 < boundary < len(records):
        raise UserError(
            f"config.data.validation_fraction={config.validation_fraction} leaves a split of the "
            f"{len(records)} training records of {config.name} empty"
        )
    if config.train_limit > boundary:
        raise UserError(
            f"config.data.train_limit={config.train_limit} is more than the {boundary} training images "
            f"of {config.name}; accepted: 0 (all) to {boundary}"
        )
    validation, test = records[boundary:], Split(arrays["test_images"], arrays["test_labels"])
    if own:
        validation = Split(arrays["validation_images"], arrays["validation_labels"])
    if config.eval_limit > max(len(validation), len(test)):
        raise UserError(
            f"config.data.eval_limit={config.eval_limit} is more than the {len(validation)} validation and the "
            f"{len(test)} test images of {config.name}; accepted: 0 (all) to {max(len(validation), len(test))}"
        )
    return Dataset(
        train=records[: config.train_limit or boundary],
        validation=validation[: config.eval_limit or None],
        test=test[: config.eval_limit or None],
        digest=meta.get("digest", ""),
        **{name: tuple(meta[name]) for name in _TUPLES if name in meta},
    )


def _read(config: ml_collections.ConfigDict) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays of the data set that a configuration names, {train,test,maybe validation}_{images,labels}."""
    if config.name == FOLDER:
        return load_folder(config.dir, config.image_size, config.test_fraction)
    if config.name == EMBEDDED:
        if config.image_size:
            raise UserError(f"config.data.image_size={config.image_size} with config.data.name={EMBEDDED}; accepted: 0")
        return _digits()
    return load_tfds(config.name, config.dir, config.image_size)


def _digits() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the 1,797 digits with every fifth as test; the same writers appear on both sides."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    # The records come in the order of writing; a fixed shuffle makes every part of them alike.
    order = np.random.default_rng(0).permutation(len(labels))
    test, train = order[::5], np.setdiff1d(order, order[::5])
    train = np.random.default_rng(1).permutation(train)
    arrays = {
        "train_images": images[train],
        "train_labels": labels[train],
        "test_images": images[test],
        "test_labels": labels[test],
    }
    return arrays, describe_channels(images[train]) | {"class_names": [str(name) for name in digits.target_names]}
