"""The compiled step: order, masking, evaluation and the numbers of a golden step."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import eanet, none, vit
from eanet import cost
from eanet.attention import ATTENTIONS
from eanet.data import datasets as data
from eanet.model import footprint
from eanet.training import experiment, members, metrics, sharding, step
from helpers.tiny import tiny_config


@pytest.fixture(scope="module")
def dataset():
    return data.load(tiny_config().data)


@pytest.fixture(scope="module")
def setup(dataset):
    return experiment.build(tiny_config(), dataset, sharding.make_mesh())


@pytest.fixture(scope="module")
def start(setup):
    return jax.jit(functools.partial(step.init_state, setup))(jax.random.key(0), HYPERPARAMETERS)


HYPERPARAMETERS = jax.tree.map(lambda x: x[0], members.hyperparameters(tiny_config().to_dict(), [members.Member(0)]))


def _arrays(split):
    return jnp.asarray(split.images), jnp.asarray(split.labels)


# One function for all tests, so that those of the same experiment share what is compiled.
_train_call, _train_step = (jax.jit(call, static_argnums=0) for call in (step.train_call, step.train_step))


def _run(setup, state, num_steps, dataset):
    return _train_call(setup, state, jax.random.key(0), HYPERPARAMETERS, *_arrays(dataset.train), np.int32(num_steps))


def _step(setup, state, *batch):
    """One step on a batch; compiled, because one operation at a time takes seconds."""
    return _train_step(setup, state, jax.random.key(0), HYPERPARAMETERS, *batch)


def _same_bits(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b))


def test_the_document_has_313_steps_an_epoch():
    assert experiment.steps_per_epoch(40_000, 128) == 313


def test_an_epoch_visits_every_example_once_in_an_order_of_its_own(setup):
    key = jax.random.key(0)
    orders = []
    for epoch in (0, 1):
        order, mask = step.epoch_order(setup, key, jnp.int32(epoch))
        assert order.shape == mask.shape == (4, 32)
        assert sorted(np.asarray(order)[np.asarray(mask)]) == list(range(100))
        assert np.asarray(mask)[:3].all() and np.asarray(mask)[3].sum() == 4
        orders.append(np.asarray(order))
    assert (orders[0] != orders[1]).any()


def _draw(setup, key, purpose, index=3):
    return float(jax.random.uniform(step.stream(setup, key, purpose, index)))


def test_streams_differ_by_purpose_and_index(setup):
    key = jax.random.key(0)
    draws = [
        float(jax.random.uniform(step.stream(setup, key, purpose, index)))
        for purpose in step.Purpose
        for index in range(3)
    ]
    assert len(set(draws)) == len(draws)


def test_what_is_fixed_follows_seed_0_and_nothing_else_does(setup):
    assert [purpose.name.lower() for purpose in step.Purpose] == list(members.SOURCES)
    keys = [jax.random.key(seed) for seed in (0, 7)]
    for fixed in step.Purpose:
        some = dataclasses.replace(setup, fixed=(fixed.name.lower(),))
        for purpose in step.Purpose:
            draws = [float(jax.random.uniform(step.stream(some, key, purpose, 3))) for key in keys]
            assert (draws[0] == draws[1]) == (purpose == fixed)
            assert draws == [
                float(jax.random.uniform(step.stream(setup, keys[i], purpose, 3))) for i in (0, purpose != fixed)
            ]


def test_a_call_of_many_steps_equals_many_calls_of_one(setup, start, dataset):
    together, _ = _run(setup, start, 4, dataset)
    apart = start
    for _ in range(4):
        apart, _ = _run(setup, apart, 1, dataset)
    assert int(together.step) == 4
    assert not _same_bits(together.params, start.params)
    assert _same_bits(together, apart)


def test_sums_count_every_example_and_start_again_with_the_epoch(setup, start, dataset):
    state, _ = _run(setup, start, 4, dataset)
    assert float(state.epoch_sums["examples"]) == 100
    state, _ = _run(setup, state, 1, dataset)
    assert float(state.epoch_sums["examples"]) == 32


def test_masked_examples_have_no_influence(setup, start, dataset):
    images, labels = (x[:32] for x in _arrays(dataset.train))
    mask = jnp.arange(32) < 4
    other_images, other_labels = images.at[4:].set(7), labels.at[4:].set(3)
    assert (images != other_images).any() and (labels != other_labels).any()
    one, _ = _step(setup, start, images, labels, mask)
    other, _ = _step(setup, start, other_images, other_labels, mask)
    unmasked, _ = _step(setup, start, other_images, other_labels, jnp.ones(32, bool))
    assert _same_bits(one.params, other.params)
    assert not _same_bits(one.params, unmasked.params)


def test_the_ragged_batch_averages_over_its_real_examples(setup, start, dataset):
    """Against the gradient of the plain mean over 4 images, with augmentation and dropout off."""
    model = setup.model.clone(mlp_dropout=0.0, attention=functools.partial(setup.model.attention.func))
    plain = dataclasses.replace(
        setup,
        model=model,
        preprocessing=dataclasses.replace(setup.preprocessing, rotation=0.0, contrast=0.0, zoom=0.0),
    )
    images, labels = (x[:32] for x in _arrays(dataset.train))
    padded, monitor = _step(plain, start, images, labels, jnp.arange(32) < 4)

    def loss(params):
        inputs = (images[:4].astype(jnp.float32) - dataset.mean[0]) / dataset.deviation[0]
        logits = model.apply({"params": params}, inputs)
        targets = 0.9 * jax.nn.one_hot(labels[:4], 10) + 0.1 / 10
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=1))

    value, grads = jax.jit(jax.value_and_grad(loss))(start.params)
    np.testing.assert_allclose(padded.epoch_sums["loss"] / 4, value, rtol=1e-5)
    # Adam's first step hides the gradient's scale, so a division by the wrong number shows only here.
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(grad)) for grad in jax.tree.leaves(grads)))
    np.testing.assert_allclose(monitor.grad_norm, norm, rtol=1e-4)
    # Adam's first moment after one step is a tenth of the gradient.
    for ours, theirs in zip(jax.tree.leaves(padded.opt_state[0].mu), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(ours, theirs / 10, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("real", [32, 5])
@pytest.mark.parametrize("size", [1, 8, pytest.param(16, marks=pytest.mark.system)])
def test_micro_batches_change_nothing(setup, start, dataset, size, real):
    """Dropout on, full and ragged: loss, accuracies and gradients of the whole batch, to rounding."""
    whole = dataclasses.replace(setup, microbatch=32)
    assert whole.model.mlp_dropout > 0 and whole.batch_size == 32
    images, labels = (x[:32] for x in _arrays(dataset.train))
    batch = (images, labels, jnp.arange(32) < real)
    expected, expected_monitor = _step(whole, start, *batch)
    state, monitor = _step(dataclasses.replace(setup, microbatch=size), start, *batch)
    for name, value in expected.epoch_sums.items():
        np.testing.assert_allclose(state.epoch_sums[name], value, rtol=1e-5)
    np.testing.assert_allclose(monitor.grad_norm, expected_monitor.grad_norm, rtol=1e-5)
    # Adam's first moment after one step is a tenth of the gradient, whose scale its update hides.
    moments, expected_moments = (jax.tree.leaves(s.opt_state) for s in (state, expected))
    for ours, theirs in zip(moments, expected_moments, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-7)


def test_dropout_belongs_to_the_place_in_the_batch_and_the_step(setup, start, dataset):
    """Twice the same image gets two masks, and the same place another one in the next step."""
    images, labels = (jnp.repeat(x[:1], 32, axis=0) for x in _arrays(dataset.train))
    one = dataclasses.replace(setup, preprocessing=dataclasses.replace(setup.preprocessing, rotation=0.0, zoom=0.0))

    def loss(place, number):
        state, _ = _step(one, start.replace(step=jnp.int32(number)), images, labels, jnp.arange(32) == place)
        return float(state.epoch_sums["loss"])

    losses = [loss(0, 0), loss(1, 0), loss(0, 4)]
    assert len(set(losses)) == 3


def test_micro_batches_are_parts_of_a_batch(dataset):
    def size(batch_size, at_once=16, **fields):
        return experiment.microbatch(tiny_config(train__batch_size=batch_size, **fields).train, at_once)

    assert [size(batch) for batch in (32, 16, 40, 100, 4)] == [16, 16, 10, 10, 4]
    assert size(100, 64) == 50 and size(127, 64) == 127  # a prime number of images is not cut
    assert size(32, None) == 32 and size(32, train__microbatch=8) == size(32, None, train__microbatch=8) == 8


@pytest.mark.parametrize(
    ("config", "patch_size", "largest", "images"),
    [
        (eanet.get_config(), 2, 256 * 16 * 16 * 4, 16),  # tokens × heads × slots × bytes
        (eanet.get_config(), 4, 64 * 16 * 16 * 4, 64),
        (vit.get_config(), 2, 4 * 256 * 256 * 4, 16),  # heads × tokens × tokens × bytes
        (vit.get_config("4x32"), 2, 4 * 256 * 256 * 4, 16),
        (none.get_config(), 2, 256 * 64 * 4, 64),
    ],
    ids=["external", "external, 64 tokens", "merged self", "self", "none"],
)
def test_images_at_once_follow_from_the_largest_activation(config, patch_size, largest, images):
    config.model.patch_size = patch_size
    model, shape = cost.of_config(config)
    assert footprint.largest_activation_bytes(model, shape) == largest
    assert experiment.images_at_once(model, shape, sharding.make_mesh()) == images
    assert experiment.images_at_once(model, shape, _elsewhere("tpu")) is None


@pytest.mark.parametrize("attention", [name for name, make in ATTENTIONS.items() if make])
def test_every_attention_has_a_largest_activation(attention):
    config = eanet.get_config()
    config.model.attention, config.model.patch_size = attention, 4
    model, shape = cost.of_config(config)
    assert footprint.largest_activation_bytes(model, shape) >= 64 * 64 * 4  # a token's channels
    assert 16 <= experiment.images_at_once(model, shape, sharding.make_mesh()) <= 64


def _elsewhere(platform, data=1):
    """A mesh of devices that are not there, as far as it is asked."""
    devices = np.array([types.SimpleNamespace(platform=platform)] * data)
    return types.SimpleNamespace(devices=devices, shape={sharding.SEED_AXIS: 1, sharding.DATA_AXIS: data})


def test_networks_at_once_follow_from_the_largest_activation_of_a_batch():
    """1 MiB an image with 4 × 256 × 256 weights: 64 images of a network are 64 MiB; 1,024 of one are more."""
    model, shape = cost.of_config(vit.get_config())
    for platform in ("tpu", "gpu"):
        at_once = [experiment.networks_at_once(model, shape, images, _elsewhere(platform)) for images in (32, 64, 1024)]
        assert at_once == [2, 1, 1]
    assert experiment.networks_at_once(model, shape, 128, _elsewhere("tpu", data=4)) == 2
    assert experiment.networks_at_once(model, shape, 1, sharding.make_mesh()) == 1
    assert experiment.networks_at_once(*cost.of_config(eanet.get_config()), 128, _elsewhere("gpu")) == 2


def test_evaluation_of_a_ragged_split_equals_a_direct_count(setup, start, dataset):
    images, labels = _arrays(dataset.test[:50])
    assert len(labels) % 32
    evaluate = jax.jit(functools.partial(step.evaluate_call, setup, batch_size=32))
    values = evaluate(start.params, HYPERPARAMETERS, images, labels)
    inputs = (images.astype(jnp.float32) - dataset.mean[0]) / dataset.deviation[0]
    logits = jax.jit(setup.model.apply)({"params": start.params}, inputs)
    assert values["accuracy"].shape == (50,)
    assert int(values["accuracy"].sum()) == int((jnp.argmax(logits, -1) == labels).sum())
    np.testing.assert_array_equal(values["predicted"], jnp.argmax(logits, -1))
    expected = metrics.per_example(logits, labels, 0.1)
    np.testing.assert_allclose(values["loss"], expected["loss"], rtol=1e-5)


def test_the_first_step_that_is_not_finite_is_named(setup, start, dataset):
    _, monitor = _run(setup, start, 4, dataset)
    assert int(monitor.diverged_step) == -1
    broken = start.replace(params=jax.tree.map(lambda x: x * jnp.inf, start.params), step=jnp.int32(1))
    _, monitor = _run(setup, broken, 2, dataset)
    assert int(monitor.diverged_step) == 1


def test_the_first_step_whose_loss_is_far_above_uniform_guessing_is_named(setup, start, dataset):
    """And it is that step's loss that is seen, whatever comes after it."""
    _, calm = _run(setup, start, 1, dataset)
    assert int(calm.diverged_step) == -1 and setup.loss_limit == pytest.approx(20 * np.log(10))
    strict = dataclasses.replace(setup, loss_limit=float(calm.loss) * 0.999)
    _, monitor = _run(strict, start, 4, dataset)
    assert int(monitor.diverged_step) == 0
    assert float(monitor.loss) == pytest.approx(float(calm.loss), rel=1e-6)


def test_golden_steps(setup, start, dataset):
    """Four steps from seed 0. A change of these numbers is a change of what every run computes."""
    state, monitor = _run(setup, start, 4, dataset)
    means = {name: float(value) / 100 for name, value in state.epoch_sums.items()}
    np.testing.assert_allclose(means["loss"], 2.327406921, rtol=1e-4)
    np.testing.assert_allclose(float(monitor.grad_norm), 2.846928358, rtol=1e-3)
    assert means["accuracy"] == pytest.approx(0.11, abs=0.011)
