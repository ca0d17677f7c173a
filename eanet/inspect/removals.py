"""What a trained network loses without a slot, a head, or the attention of a block.

One compiled function takes the masks of eanet.attention.removal as an argument and serves all removals. R is the number
of networks of a run.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eanet.attention.removal import COLLECTION, masks
from eanet.data.augmentation import evaluation_input
from eanet.data.datasets import Split
from eanet.run.trained import TrainedRun

_CHUNK = 16  # masks of one call
_CURVE = 17  # points of the curve of removing more and more


@dataclasses.dataclass(frozen=True, order=True)
class Part:
    """What can be removed. A slot is removed in all heads of its block, which share the memories."""

    block: int
    kind: str  # attention | head | slot
    index: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What networks with something removed give for images: [R, removals, images]."""

    correct: np.ndarray  # bool
    loss: np.ndarray  # float32, nats, no label smoothing
    predicted: np.ndarray  # int

    @property
    def accuracy(self) -> np.ndarray:
        """[R, removals]."""
        return self.correct.mean(axis=-1)


class Removals:
    """A run whose networks can be evaluated without some of their parts."""

    def __init__(self, run: TrainedRun):
        self._run = run
        one = jax.tree.map(lambda x: x[0], run.params)
        inputs = jax.ShapeDtypeStruct((1, *run.experiment.image_shape), jnp.float32)
        self._whole = jax.tree.map(np.asarray, masks(run.experiment.model, one, inputs))
        self._function = _compiled(run)

    @functools.cached_property
    def parts(self) -> list[Part]:
        """Return everything that can be removed."""
        found = []
        for block, own in self._whole.items():
            number = int(block.removeprefix("block_"))
            found += [Part(number, "attention")] if "attended" in own else []
            for kind, count in _sizes(own.get("attention", {})).items():
                found += [Part(number, kind, index) for index in range(count)]
        return sorted(found)

    def without(self, parts: Sequence[Part]) -> dict[str, Any]:
        """Return the masks of a network that lacks some parts."""
        kept = jax.tree.map(np.copy, self._whole)
        for part in parts:
            own = kept[f"block_{part.block}"]
            if part.kind == "attention":
                own["attended"] = np.zeros_like(own["attended"])
            elif "slots" in own["attention"]:  # [heads, slots]
                own["attention"]["slots"][(part.index,) if part.kind == "head" else (slice(None), part.index)] = 0
            else:
                own["attention"]["heads"][part.index] = 0
        return kept

    def evaluate(
        self, split: Split, removals: Sequence[Sequence[Part]], done: Callable[[int], None] = lambda count: None
    ) -> Outcome:
        """Evaluate all networks on a split's images, once for each list of parts to remove.

        done is told how many evaluations of an image have been added.
        """
        size, parts = self._run.experiment.evaluation_batch, [self.without(some) for some in removals]
        by_batch = []
        for images, labels in _batches(split, size):
            count, by_chunk = min(size, len(split) - size * len(by_batch)), []
            for start in range(0, len(parts), _CHUNK):
                chunk = parts[start : start + _CHUNK]
                stacked = jax.tree.map(lambda *x: np.stack(x), *chunk, *[self._whole] * (_CHUNK - len(chunk)))
                found = jax.device_get(self._function(self._run.params, images, labels, stacked))
                by_chunk.append([x[:, : len(chunk), :count] for x in found])
                done(len(chunk) * count)
            by_batch.append([np.concatenate(x, axis=1) for x in zip(*by_chunk, strict=True)])
        loss, predicted = (np.concatenate(x, axis=2) for x in zip(*by_batch, strict=True))
        return Outcome(predicted == split.labels, loss, predicted)


def _sizes(attention: dict[str, np.ndarray]) -> dict[str, int]:
    if "slots" in attention:
        heads, slots = attention["slots"].shape
        return {"head": heads, "slot": slots}
    return {"head": len(attention["heads"])} if "heads" in attention else {}


def _batches(split: Split, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield images and labels, the last batch filled with its last image, so that one program serves all."""
    for start in range(0, len(split), size):
        index = np.minimum(np.arange(start, start + size), len(split) - 1)
        yield split.images[index], split.labels[index]


def _compiled(run: TrainedRun) -> Callable[..., Any]:
    own = run.experiment

    @jax.jit
    def evaluate(params: Any, images: jax.Array, labels: jax.Array, kept: Any) -> tuple[jax.Array, jax.Array]:
        inputs = evaluation_input(images, own.preprocessing)

        def network(params: Any) -> tuple[jax.Array, jax.Array]:
            def one(mask: Any) -> tuple[jax.Array, jax.Array]:
                logits = own.model.apply({"params": params, COLLECTION: mask}, inputs)
                log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
                loss = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
                return loss, jnp.argmax(logits, axis=-1)

            return jax.lax.map(one, kept)

        return jax.lax.map(network, params)

    def with_precision(*arguments: Any) -> tuple[jax.Array, jax.Array]:
        with jax.default_matmul_precision(run.config.matmul_precision):
            return evaluate(*arguments)

    return with_precision


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """Every part of a run removed alone, and more and more of one kind removed together."""

    parts: list[Part]
    whole: Outcome  # one removal: of nothing
    alone: Outcome  # a removal for each part
    kind: str  # of what is removed cumulatively: slot if there are slots, else head or attention
    order: list[Part]  # of the cumulative removal: what costs least alone comes first
    counts: list[int]  # removed parts at the points of the curve
    curve: np.ndarray  # accuracy [R, points], on other images than the order was chosen on

    def accuracy_change(self) -> np.ndarray:
        """Return what each removal changes the accuracy by, [R, parts]."""
        return self.alone.accuracy - self.whole.accuracy

    def changed(self) -> np.ndarray:
        """Return the share of images whose predicted class each removal changes, [R, parts]."""
        return (self.alone.predicted != self.whole.predicted).mean(axis=-1)

    def dead(self, block: int, flat: np.ndarray) -> np.ndarray:
        """Return which slots of a block are dead: flat maps, and no predicted class that changes without them.

        flat is bool [R, slots], and so is the result. A flat map alone is no sign: the softmax over tokens gives every
        slot the same mass, and a slot with a flat map still adds its row of M_v to every token alike.
        """
        slots = [i for i, part in enumerate(self.parts) if part.block == block and part.kind == "slot"]
        return flat & (self.changed()[:, slots] == 0)


def study(run: TrainedRun, split: Split, done: Callable[[int], None] = lambda count: None) -> Study | None:
    """Remove every part alone on the first half of a split's images; then more and more, judged on the second half.

    Returns None if the network has no attention. done is called with the number of images evaluated since the last
    call, counted once per removal; they add up to evaluations(run, split).
    """
    removals = Removals(run)
    if not removals.parts:
        return None
    first, second = _halves(split)
    alone = removals.evaluate(first, [(), *([part] for part in removals.parts)], done)
    whole, single = (
        Outcome(*(getattr(alone, name)[:, rows] for name in ("correct", "loss", "predicted")))
        for rows in (slice(1), slice(1, None))
    )
    kind = _cumulative_kind(removals.parts)
    cost = single.loss.mean(axis=(0, 2))
    order = sorted((i for i, part in enumerate(removals.parts) if part.kind == kind), key=lambda i: cost[i])
    order = [removals.parts[i] for i in order]
    counts = _curve_counts(len(order))
    curve = removals.evaluate(second, [order[:count] for count in counts], done).accuracy
    return Study(removals.parts, whole, single, kind, order, counts, curve)


def evaluations(run: TrainedRun, split: Split) -> int:
    """Return how many evaluations of an image study makes of each network."""
    parts = Removals(run).parts
    if not parts:
        return 0
    first, second = _halves(split)
    number = sum(part.kind == _cumulative_kind(parts) for part in parts)
    return len(first) * (1 + len(parts)) + len(second) * len(_curve_counts(number))


def _cumulative_kind(parts: Sequence[Part]) -> str:
    kinds = {part.kind for part in parts}
    return next(kind for kind in ("slot", "head", "attention") if kind in kinds)


def _curve_counts(number: int) -> list[int]:
    return sorted({round(x) for x in np.linspace(0, number, min(_CURVE, number + 1))})


def _halves(split: Split) -> tuple[Split, Split]:
    middle = -(-len(split) // 2)
    return split[:middle], split[middle:] if len(split) > 1 else split
