"""What a trained run gets wrong: confusions, confident mistakes, calibration, and tokens of unusual size.

R is the number of networks of a run.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eanet.data.datasets import Split
from eanet.model.vision_transformer import Block
from eanet.run.trained import TrainedRun

BINS = 15  # of the calibration, as in Guo et al.
OUTLIER = 3.0  # times the median norm from which a token counts as an outlier


@dataclasses.dataclass(frozen=True, eq=False)
class Mistakes:
    """Predictions for a split, and what follows from them."""

    labels: np.ndarray  # int [images]
    probabilities: np.ndarray  # float32 [R, images, classes]

    @property
    def predicted(self) -> np.ndarray:
        """Classes, int [R, images]."""
        return self.probabilities.argmax(axis=-1)

    @property
    def correct(self) -> np.ndarray:
        """bool [R, images]."""
        return self.predicted == self.labels

    def most_confident(self, count: int) -> list[tuple[int, int, float]]:
        """Return (image, predicted class, probability) of the wrong answers with the highest probabilities."""
        mean = self.probabilities.mean(axis=0)
        predicted, confidence = mean.argmax(axis=-1), mean.max(axis=-1)
        wrong = np.flatnonzero(predicted != self.labels)
        order = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
        return [(int(i), int(predicted[i]), float(confidence[i])) for i in order]

    def confused_pairs(self, count: int) -> list[tuple[int, int, float]]:
        """Return (true class, predicted class, share of the true one's images) of the commonest, mean over networks."""
        classes = self.probabilities.shape[-1]
        table = np.zeros((classes, classes))
        for predicted in self.predicted:
            np.add.at(table, (self.labels, predicted), 1 / len(self.predicted))
        share = table / np.maximum(np.bincount(self.labels, minlength=classes), 1)[:, None]
        np.fill_diagonal(share, 0)
        order = np.argsort(-share, axis=None, kind="stable")[:count]
        pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, share.shape), strict=True)]
        return [(i, j, float(share[i, j])) for i, j in pairs if share[i, j] > 0]


def predict(run: TrainedRun, split: Split) -> Mistakes:
    """Classify a split with all networks of a run."""
    return Mistakes(split.labels, run.predict(split.images))


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """How often a network is right when it gives a probability: [bins], NaN where a bin is empty."""

    confidence: np.ndarray
    accuracy: np.ndarray
    share: np.ndarray  # of all images
    error: float  # expected calibration error


def calibration(probabilities: np.ndarray, labels: np.ndarray) -> Calibration:
    """Compare the probability of the predicted class with the accuracy, in 15 bins of equal width.

    probabilities is [images, classes]. The error is the mean distance, weighted by images: Guo et al., "On Calibration
    of Modern Neural Networks" (arXiv 1706.04599), section 2.
    """
    confidence, correct = probabilities.max(axis=-1), probabilities.argmax(axis=-1) == labels
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # (0, 1/15], (1/15, 2/15], …
    counts = np.bincount(bins, minlength=BINS)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(bins, weights=values, minlength=BINS)
        return np.divide(sums, counts, out=np.full(BINS, np.nan), where=counts > 0)

    mean_confidence, accuracy, share = mean(confidence), mean(correct), counts / max(len(labels), 1)
    error = float(np.nansum(share * np.abs(mean_confidence - accuracy)))
    return Calibration(mean_confidence, accuracy, share, error)


def token_norms(run: TrainedRun, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the norm of every token after each block, by block: float32 [R, images, tokens].

    Tokens far larger than the others are a habit of large vision transformers: Darcet et al., "Vision Transformers Need
    Registers" (arXiv 2309.16588).
    """

    def norms(params: Any, inputs: jax.Array) -> dict[str, jax.Array]:
        _, state = run.experiment.model.apply(
            {"params": params}, inputs, capture_intermediates=lambda module, _: isinstance(module, Block)
        )
        blocks = {name: own["__call__"][0] for name, own in state["intermediates"].items() if "__call__" in own}
        return {name: jnp.linalg.norm(x.astype(jnp.float32), axis=-1) for name, x in blocks.items()}

    return run.apply(images, norms)


def outliers(norms: np.ndarray) -> float:
    """Return the share of tokens whose norm is above three times the median."""
    return float(np.mean(norms > OUTLIER * np.median(norms)))
