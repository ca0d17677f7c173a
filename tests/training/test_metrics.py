"""Loss and accuracies against direct computation, one example at a time."""

import jax.numpy as jnp
import numpy as np
import pytest

from eanet.training.metrics import by_class, per_example


def random_batch(classes, batch=50):
    rng = np.random.default_rng(classes)
    return rng.normal(0, 2, (batch, classes)), rng.integers(0, classes, batch)


def run(logits, labels, smoothing=0.0):
    values = per_example(jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.int32), smoothing)
    assert {value.dtype for value in values.values()} == {jnp.dtype("float32")}
    return {name: np.asarray(value) for name, value in values.items()}


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_metrics_equal_a_direct_computation(classes, smoothing):
    logits, labels = random_batch(classes)
    values = run(logits, labels, smoothing)
    for i, (row, label) in enumerate(zip(logits, labels, strict=True)):
        probabilities = np.exp(row) / np.exp(row).sum()
        target = np.full(classes, smoothing / classes)
        target[label] += 1 - smoothing
        assert values["loss"][i] == pytest.approx(-np.sum(target * np.log(probabilities)), abs=1e-4)
        better = np.sum(row > row[label])
        assert values["accuracy"][i] == (better < 1)
        assert values["top5_accuracy"][i] == (better < 5)
    assert 0 < values["accuracy"].mean() < 1


def test_smoothing_changes_the_loss_and_no_accuracy():
    logits, labels = random_batch(10)
    sharp, smooth = run(logits, labels, 0.0), run(logits, labels, 0.1)
    assert np.abs(sharp["loss"] - smooth["loss"]).min() > 0
    for name in ("accuracy", "top5_accuracy"):
        np.testing.assert_array_equal(sharp[name], smooth[name])


def test_no_prediction_has_a_smoothed_loss_below_the_entropy_of_its_target():
    target = np.full(100, 0.001)
    target[7] += 0.9
    floor = -np.sum(target * np.log(target))
    assert floor == pytest.approx(0.778, abs=5e-4)  # the entropy of a smoothed target of 100 classes
    labels = np.full(1, 7)
    assert run(np.log(target)[None], labels, 0.1)["loss"][0] == pytest.approx(floor, abs=1e-5)
    for nudge in np.random.default_rng(0).normal(0, 0.5, (20, 100)):
        assert run((np.log(target) + nudge)[None], labels, 0.1)["loss"][0] > floor
    # A prediction surer than the target is worse than the target itself.
    assert run(50 * np.eye(100)[7:8], labels, 0.1)["loss"][0] > floor + 1


@pytest.mark.parametrize("classes", [2, 4, 5])
def test_five_classes_or_fewer_are_always_among_the_first_five(classes):
    logits, labels = random_batch(classes)
    values = run(logits, labels)
    assert values["top5_accuracy"].tolist() == [1.0] * len(labels)
    assert values["accuracy"].mean() < 1


def test_ties_do_not_count_for_every_class():
    values = run(np.zeros((20, 20)), np.arange(20))
    assert values["accuracy"].sum() == 1
    assert values["top5_accuracy"].sum() == 5


def test_large_logits_overflow_nothing():
    values = run([[1e4, 0.0, -1e4]] * 2, [0, 2], 0.0)
    np.testing.assert_allclose(values["loss"], [0.0, 2e4])


def test_by_class_counts_each_class_and_gives_nan_where_it_has_no_example():
    correct = np.array([1, 0, 1, 1, 0, 0, 1], np.float32)
    classes = np.array([0, 0, 2, 2, 2, 4, 0])
    expected = [2 / 3, np.nan, 2 / 3, np.nan, 0.0, np.nan]
    result = by_class(correct, classes, 6)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected)
    counts = np.bincount(classes, minlength=6)
    assert np.nansum(result * counts) / counts.sum() == pytest.approx(correct.mean())
