"""Slots, heads and blocks removed from a trained run with planted structure."""

import dataclasses

import jax
import numpy as np
import pytest

from eanet.data import datasets as data
from eanet.data.datasets import Split
from eanet.inspect import removals, slots
from eanet.inspect.removals import Part, Removals
from eanet.run.trained import load_run
from helpers.tiny import tiny_config
from helpers.untrained import with_attention

_USED, _DEAD, _FLAT = 0, 1, 2


@pytest.fixture
def planted(finished):
    """A run with a slot that matters most, one that is dead, and one whose map is flat though it counts."""
    run = load_run(finished[0])
    params = jax.tree.map(np.copy, run.params)
    attention = params["block_0"]["attention"]
    attention["memory_value"]["kernel"][:, _USED] *= 30  # [networks, slots, head channels]
    for slot in (_DEAD, _FLAT):
        attention["memory_key"]["kernel"][:, :, slot] = attention["memory_key"]["bias"][:, slot] = 0
    attention["memory_value"]["kernel"][:, _DEAD] = 0
    attention["memory_value"]["kernel"][:, _FLAT] *= 10
    return dataclasses.replace(run, params=params)


@pytest.fixture
def split(planted):
    """Images whose labels are what the planted network predicts: it is right until something is removed."""
    images = data.load(tiny_config().data).validation.images[:150]
    return Split(images, planted.predict(images)[0].argmax(-1).astype(np.int32))


def _change(study, part):
    return float(study.accuracy_change()[0, study.parts.index(part)])


def test_a_used_slot_costs_accuracy_and_a_dead_one_nothing(planted, split):
    study = removals.study(planted, split)
    assert study.whole.accuracy == [[1.0]]
    used, dead, flat = (_change(study, Part(0, "slot", slot)) for slot in (_USED, _DEAD, _FLAT))
    assert used < -0.3 and dead == 0 and flat < 0
    without_all = _change(study, Part(0, "attention"))
    assert without_all < -0.3


def test_only_a_slot_that_is_flat_and_without_effect_is_dead(planted, split):
    study = removals.study(planted, split)
    flat = slots.measure(planted, split.images[:20]).flat("block_0/attention_map")
    assert flat.tolist() == [[False, True, True, False]]
    assert study.dead(0, flat).tolist() == [[False, True, False, False]]
    assert not study.dead(0, np.zeros_like(flat)).any()


def test_the_least_important_goes_first_and_all_of_it_last(planted, split):
    done = []
    study = removals.study(planted, split, done.append)
    assert study.kind == "slot" and study.counts == [0, 1, 2, 3, 4]
    assert set(study.order) == {Part(0, "slot", slot) for slot in range(4)}
    loss = [study.alone.loss[0, study.parts.index(part)].mean() for part in study.order]
    assert loss == sorted(loss) and study.order[-1] == Part(0, "slot", _USED)
    assert study.curve[0, 0] == 1 and study.curve[0, -1] < 0.7
    assert study.curve[0, -1] == Removals(planted).evaluate(split[75:], [study.order]).accuracy
    assert sum(done) == removals.evaluations(planted, split)


def test_what_is_removed_together_is_removed(planted, split):
    """All slots, all heads: the same network; without the whole attention another one, as the biases go too."""
    own = Removals(planted)
    heads = [part for part in own.parts if part.kind == "head"]
    every_slot = [part for part in own.parts if part.kind == "slot"]
    assert len(heads) == 16 and len(every_slot) == 4
    outcome = own.evaluate(split, [heads, every_slot, [Part(0, "attention")], []])
    np.testing.assert_allclose(outcome.loss[0, 0], outcome.loss[0, 1], rtol=1e-5)
    assert np.abs(outcome.loss[0, 0] - outcome.loss[0, 2]).max() > 1e-3
    assert outcome.correct[0, 3].all() and outcome.predicted.shape == (1, 4, 150)


def test_one_program_serves_all_removals(planted, split, monkeypatch):
    own, calls = Removals(planted), []
    function = own._function
    monkeypatch.setattr(own, "_function", lambda *arguments: calls.append(1) or function(*arguments))
    own.evaluate(split, [[part] for part in own.parts])
    assert len(calls) == 3 * 2  # 150 images in batches of 64, 21 parts in chunks of 16


def test_networks_are_evaluated_apart(three_seeds):
    run = load_run(three_seeds[0])
    split = data.load(tiny_config().data).validation[:70]
    outcome = Removals(run).evaluate(split, [[]])
    np.testing.assert_array_equal(outcome.predicted[:, 0], run.predict(split.images).argmax(-1))
    assert outcome.accuracy.shape == (3, 1) and len(set(outcome.loss.mean(-1).ravel())) == 3


@pytest.mark.parametrize(
    ("attention", "kinds"),
    [
        ("self", {"attention": 1, "head": 4}),
        ("linear", {"attention": 1, "head": 4}),
        ("random", {"attention": 1, "head": 4}),
        ("induced", {"attention": 1, "head": 4, "slot": 4}),
        ("conv", {"attention": 1}),
    ],
)
def test_every_attention_says_what_it_has(finished, attention, kinds):
    run = with_attention(load_run(finished[0]), attention)
    parts = Removals(run).parts
    assert {kind: sum(part.kind == kind for part in parts) for kind in {part.kind for part in parts}} == kinds


def test_without_attention_there_is_no_study(finished):
    run = with_attention(load_run(finished[0]), "none")
    split = data.load(tiny_config().data).validation[:10]
    assert removals.study(run, split) is None and removals.evaluations(run, split) == 0
