"""Loss and accuracies per example; means are sums over real examples, divided once."""

import jax
import jax.numpy as jnp
import numpy as np

TOP_K = 5
NAMES = ("loss", "accuracy", "top5_accuracy")


def per_example(logits: jax.Array, labels: jax.Array, label_smoothing: float | jax.Array) -> dict[str, jax.Array]:
    """Give each example's smoothed cross-entropy (nats), and whether its class is first or in the first five.

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


def by_class(correct: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Give the accuracy within each class, float64 [num_classes]; NaN where a class has no example."""
    counts = np.bincount(classes, minlength=num_classes)
    hits = np.bincount(classes, weights=correct, minlength=num_classes)
    return np.divide(hits, counts, out=np.full(num_classes, np.nan), where=counts > 0)
