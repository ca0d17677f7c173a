"""Loss and accuracies per example; means are sums over real examples, divided once."""

import math
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eanet import statistics
from eanet.statistics import Estimate

TOP_K = 5
NAMES = ("loss", "accuracy", "top5_accuracy")
_FRACTIONS = ("accuracy", "top5_accuracy", "accuracy_best")


def per_example(logits: jax.Array, labels: jax.Array, label_smoothing: float | jax.Array) -> dict[str, jax.Array]:
    """Return each example's smoothed cross-entropy (nats), and whether its class is first or in the first five.

    logits is float [batch, classes], labels int [batch]; every value is float32 [batch]. The loss of a
    perfect prediction is not 0 but the entropy of the smoothed target, as Keras reports it.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    of_label = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    loss = -(1 - label_smoothing) * of_label - label_smoothing * jnp.mean(log_probabilities, axis=1)
    # top_k breaks ties by index, so that constant logits do not count as right for every class.
    _, best = jax.lax.top_k(logits, min(TOP_K, logits.shape[-1]))
    hits = best == labels[:, None]
    return {
        "loss": loss,
        "accuracy": hits[:, 0].astype(jnp.float32),
        "top5_accuracy": jnp.any(hits, axis=1).astype(jnp.float32),
    }


def means(values: dict[str, np.ndarray], member: int) -> dict[str, float]:
    """Average a member's metrics over all examples, in float64; values are [members, examples]."""
    return {name: float(np.mean(values[name][member], dtype=np.float64)) for name in NAMES}


def estimate(name: str, values: Sequence[float]) -> Estimate:
    """Estimate the mean of a metric, e.g. val/accuracy, over seeds; an accuracy's interval stays within 0 and 1."""
    limits = (0.0, 1.0) if name.rpartition("/")[2] in _FRACTIONS else (-math.inf, math.inf)
    return statistics.estimate(values, limits)


def spread(name: str, values: Sequence[float]) -> tuple[float, float]:
    """Return what a picture shows around the mean over seeds: its 95% interval, of two seeds their range.

    The t interval of two values is 12.7 times as wide as they lie apart, and would hide all else. NaN for one value.
    """
    if len(values) == 2:
        return min(values), max(values)
    interval = estimate(name, values)
    return interval.low, interval.high


def spread_in_words(counts: Collection[int]) -> str:
    """Say what spread gives for groups of so many seeds; empty if none has two."""
    intervals = f"{statistics.LEVEL:.0%} intervals over the seeds"
    if 2 in counts:
        return f"{intervals}, or the range if there are two" if max(counts) > 2 else "the range of the two seeds"
    return intervals if max(counts, default=0) > 2 else ""


def by_class(correct: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the accuracy within each class, float64 [num_classes]; NaN where a class has no example."""
    counts = np.bincount(classes, minlength=num_classes)
    hits = np.bincount(classes, weights=correct, minlength=num_classes)
    return np.divide(hits, counts, out=np.full(num_classes, np.nan), where=counts > 0)
