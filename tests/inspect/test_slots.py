"""Slots of a run in numbers, and how alike maps are."""

import numpy as np
import pytest

from eanet.data import datasets as data
from eanet.inspect import slots
from eanet.run.trained import load_run
from helpers.tiny import tiny_config
from helpers.untrained import with_attention

_RNG = np.random.default_rng(0)


@pytest.fixture
def images():
    return data.load(tiny_config().data).validation.images[:70]


def test_the_numbers_are_means_over_the_images_of_the_stored_maps(finished, images):
    run = load_run(finished[0])
    found, maps = slots.measure(run, images), run.attention_maps(images)
    map_RBNHS = maps["block_0/attention_map"]
    entropy = -(map_RBNHS * np.log(map_RBNHS)).sum(-1).mean((1, 2)) / np.log(4)
    np.testing.assert_allclose(found.entropy["block_0/attention_map"], entropy, rtol=1e-4)
    total = map_RBNHS.sum(2)
    usage = (total / total.mean(-1, keepdims=True)).mean(1)
    np.testing.assert_allclose(found.usage["block_0/attention_map"], usage, rtol=1e-4)
    before = maps["block_0/attention_map_over_tokens"]
    evenness = -(before * np.log(before)).sum(2).mean(1) / np.log(4)
    np.testing.assert_allclose(found.evenness["block_0/attention_map"], evenness, rtol=1e-4)
    assert {name: x.shape for name, x in found.ranks.items()} == {
        "block_0/memory_key": (1,),
        "block_0/memory_value": (1,),
    }


def test_networks_keep_their_own_numbers_and_share_their_tokens(three_seeds, images):
    found = slots.measure(load_run(three_seeds[0]), images)
    assert found.entropy["block_0/attention_map"].shape == (3, 16)
    assert len(set(found.ranks["block_0/memory_key"])) == 3
    assert found.features["block_0/attention_map"].shape == (3, 280, 64)
    between, same = slots.similarities(found)
    assert between.shape == (1, 1) and between[0, 0] == pytest.approx(1)
    features = found.features["block_0/attention_map"]
    pairs = [slots.cka(features[i], features[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert same["block_0/attention_map"] == pytest.approx(np.mean(pairs)) and same["block_0/attention_map"] < 0.99


@pytest.mark.parametrize("attention", ["linear", "conv", "none"])
def test_an_attention_without_maps_has_no_numbers(finished, images, attention):
    found = slots.measure(with_attention(load_run(finished[0]), attention), images)
    assert found.entropy == found.usage == found.evenness == found.features == found.ranks == {}
    between, same = slots.similarities(found)
    assert between.size == 0 and same == {}


def test_induced_attention_has_two_maps_a_block(finished, images):
    found = slots.measure(with_attention(load_run(finished[0]), "induced"), images)
    assert set(found.usage) == set(found.entropy) == {"block_0/summarize_map", "block_0/distribute_map"}


def test_features_that_are_rotated_and_scaled_are_alike():
    x = _RNG.normal(size=(50, 4))
    rotation, _ = np.linalg.qr(_RNG.normal(size=(4, 4)))
    assert slots.cka(x, 3 * x @ rotation + 1) == pytest.approx(1)


def test_independent_features_are_not_alike_however_many_there_are():
    """The plain estimator gives 0.5 and more here; the debiased one is 0 on the average."""
    values = [slots.cka(_RNG.normal(size=(60, 100)), _RNG.normal(size=(60, 100))) for _ in range(30)]
    assert abs(np.mean(values)) < 0.05 and max(map(abs, values)) < 0.3


def test_features_that_do_not_differ_have_no_likeness():
    assert np.isnan(slots.cka(np.ones((10, 3)), _RNG.normal(size=(10, 3))))


def test_the_estimator_is_the_sum_over_four_different_rows():
    """HSIC's unbiased estimator, written out over all quadruples of rows: Song et al., equation 4."""
    import itertools

    x, y = _RNG.normal(size=(6, 2)), _RNG.normal(size=(6, 3))
    k, m = (z @ z.T for z in (x - x.mean(0), y - y.mean(0)))
    terms = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in itertools.permutations(range(6), 4)]
    assert slots._hsic(x, y) == pytest.approx(np.mean(terms))
