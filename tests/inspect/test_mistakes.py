"""Confusions, calibration and token norms, against values worked out by hand."""

import numpy as np
import pytest

from eanet.data import datasets as data
from eanet.inspect import mistakes
from eanet.inspect.mistakes import Mistakes
from eanet.run.trained import load_run
from helpers.tiny import tiny_config

_LABELS = np.array([0, 0, 1, 2])
_PROBABILITIES = np.array(
    [[[0.9, 0.1, 0], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0, 0.1, 0.9]]], np.float32
)  # right, wrong, wrong, right


def test_the_most_confident_mistakes_come_first():
    found = Mistakes(_LABELS, _PROBABILITIES)
    assert found.correct.tolist() == [[True, False, False, True]]
    assert [(image, predicted) for image, predicted, _ in found.most_confident(5)] == [(1, 1), (2, 0)]
    assert found.most_confident(1)[0][2] == pytest.approx(0.7)


def test_confused_pairs_are_shares_of_the_true_class_over_all_networks():
    other = _PROBABILITIES.copy()
    other[0, 1] = [0.8, 0.2, 0]  # the second network is right there
    found = Mistakes(_LABELS, np.concatenate([_PROBABILITIES, other]))
    assert found.confused_pairs(5) == [(1, 0, 1.0), (0, 1, 0.25)]


def test_calibration_by_hand():
    """Confidences 0.9 (right), 0.7 (wrong), 0.6 (wrong), 0.9 (right) lie in bins 13, 10, 8 and 13 of 15."""
    found = mistakes.calibration(_PROBABILITIES[0].astype(float).round(6), _LABELS)
    assert found.error == pytest.approx((2 * 0.1 + 0.7 + 0.6) / 4)
    assert np.flatnonzero(found.share).tolist() == [8, 10, 13] and found.share.sum() == 1
    assert found.accuracy[13] == 1 and found.accuracy[10] == 0 and np.isnan(found.accuracy[0])


def test_a_calibrated_network_has_no_error_but_chance():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 200_000)
    probabilities = np.stack([confidence, 1 - confidence], -1)
    labels = (rng.uniform(size=len(confidence)) > confidence).astype(int)
    assert mistakes.calibration(probabilities, labels).error < 0.005
    assert mistakes.calibration(np.stack([confidence**0.2, 1 - confidence**0.2], -1), labels).error > 0.1


def test_certain_and_even_probabilities_have_their_bins():
    found = mistakes.calibration(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0]))
    assert found.share[-1] == 1 and found.accuracy[-1] == 0.5 and found.error == 0.5


def test_token_norms_are_those_of_every_block(finished):
    run = load_run(finished[0])
    images = data.load(tiny_config().data).validation.images[:70]
    norms = mistakes.token_norms(run, images)
    assert {name: x.shape for name, x in norms.items()} == {"block_0": (1, 70, 4)} and (norms["block_0"] > 0).all()


def test_tokens_far_above_the_median_are_outliers():
    assert mistakes.outliers(np.array([1.0] * 9 + [3.5])) == 0.1
    assert mistakes.outliers(np.array([1.0] * 9 + [2.5])) == 0


def test_predictions_are_of_all_networks(three_seeds):
    run = load_run(three_seeds[0])
    split = data.load(tiny_config().data).validation[:30]
    found = mistakes.predict(run, split)
    assert found.predicted.shape == found.correct.shape == (3, 30)
    np.testing.assert_array_equal(found.probabilities, run.predict(split.images))
