"""Guards against a silent bug of training: a network that is trained on other inputs than it is evaluated on.

Keras clips the output of RandomContrast in training only. After a normalisation, this silently sets half
of the input to zero: the training loss falls, but the network fails on inputs that are not clipped.
"""

import dataclasses
import math
from typing import Any

import jax
import ml_collections
import numpy as np

from eanet.data.augmentation import Preprocessing, evaluation_input, training_input
from eanet.errors import UserError

# Compiled whole: operation by operation each would be a program of its own, three seconds at the start of a run.
_training_input = jax.jit(training_input, static_argnums=2)
_evaluation_input = jax.jit(evaluation_input, static_argnums=1)


@dataclasses.dataclass(frozen=True)
class InputStatistics:
    """Of the network's input, over all pixels and channels."""

    zeros: float  # share of values that are exactly 0
    mean: float
    deviation: float

    @classmethod
    def of(cls, inputs: jax.Array) -> "InputStatistics":
        """Compute them in float64."""
        values = np.asarray(inputs, np.float64)
        return cls(float(np.mean(values == 0)), float(values.mean()), float(values.std()))


def input_statistics(key: jax.Array, images: np.ndarray, preprocessing: Preprocessing) -> dict[str, InputStatistics]:
    """Describe what the network sees of uint8 images in `training` and in `evaluation`."""
    return {
        "training": InputStatistics.of(_training_input(key, images, preprocessing)),
        "evaluation": InputStatistics.of(_evaluation_input(images, preprocessing)),
    }


def check_input(
    key: jax.Array, images: np.ndarray, preprocessing: Preprocessing, thresholds: ml_collections.ConfigDict
) -> list[str]:
    """Compare the input of training and evaluation; `thresholds` is config.guard.

    Returns a warning for each statistic that departs too far. Raises UserError, saying where they part,
    where the two differ although every strength of the augmentation is 0.
    """
    still = _training_input(key, images, preprocessing.without_randomness())
    fixed = _evaluation_input(images, preprocessing)
    difference = np.abs(np.asarray(still - fixed))
    if not difference.max() <= thresholds.input_difference:  # NaN fails too
        place = np.unravel_index(np.argmax(difference), difference.shape)
        image, row, column, channel = map(int, place)
        raise UserError(
            f"training and evaluation see different images although no augmentation is drawn: they part in augment, "
            f"most at row {row}, column {column}, channel {channel} of image {image}, {float(still[place]):g} in "
            f"training and {float(fixed[place]):g} in evaluation (config.guard.input_difference="
            f"{thresholds.input_difference:g})",
            exit_code=1,
        )
    seen = input_statistics(key, images, preprocessing)
    training, evaluation = seen["training"], seen["evaluation"]
    departures = {
        "zeros": abs(training.zeros - evaluation.zeros),
        "mean": abs(training.mean - evaluation.mean) / evaluation.deviation,
        "deviation": abs(training.deviation / evaluation.deviation - 1),
    }
    return [
        f"the network's input in training departs from evaluation's: {name} {getattr(training, name):.3f} against "
        f"{getattr(evaluation, name):.3f} (config.guard.{name}={thresholds[name]:g})"
        for name, departure in departures.items()
        if departure > thresholds[name]
    ]


def validation_diverges(rows: list[dict[str, Any]], num_classes: int) -> bool:
    """Return whether the newest epoch is the first to complete a known pattern; rows are those that end an epoch.

    The pattern: for two epochs, validation loss is above ln(classes), that of uniform guessing, while training loss
    falls.
    """

    def diverges(earlier: dict[str, Any], later: dict[str, Any]) -> bool:
        above = min(earlier["val/loss"], later["val/loss"]) > math.log(num_classes)
        return above and later["train/loss"] < earlier["train/loss"]

    pairs = [diverges(*pair) for pair in zip(rows, rows[1:], strict=False)]
    return pairs.index(True) == len(pairs) - 1 if any(pairs) else False
