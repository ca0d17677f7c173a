"""Slots, heads and memories of a trained run in numbers, and how alike the maps of blocks and networks are.

R is the number of networks of a run.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from eanet.model import map_statistics
from eanet.run.trained import TrainedRun

_ROWS = 1024  # tokens, of all images together, whose weights are compared between blocks and networks


@dataclasses.dataclass(frozen=True, eq=False)
class MapStatistics:
    """Means over images, by the map's name, e.g. block_0/attention_map. Empty where an attention has no maps."""

    entropy: dict[str, np.ndarray]  # [R, heads]
    usage: dict[str, np.ndarray]  # [R, heads, slots]; of maps between tokens there is none
    evenness: dict[str, np.ndarray]  # [R, heads, slots]
    ranks: dict[str, np.ndarray]  # [R], by the memory's name, e.g. block_0/memory_key
    features: dict[str, np.ndarray]  # [R, tokens, heads * slots or other tokens], of some tokens

    def flat(self, name: str) -> np.ndarray:
        """Return which slots of a map are flat in all heads: bool [R, slots]."""
        return np.all(self.evenness[name] >= map_statistics.FLAT, axis=1)


def measure(run: TrainedRun, images: np.ndarray) -> MapStatistics:
    """Measure the maps of all networks of a run on uint8 images, and its memories."""
    model, axes = run.experiment.model, map_statistics.map_axes(run.experiment.model)

    def describe(params: Any, inputs: jax.Array) -> dict[str, Any]:
        maps = map_statistics.stored_maps(model, params, inputs)
        found = map_statistics.describe_all(maps, axes)
        for name in found:
            some = _some_of(maps[name].shape[2], -(-_ROWS // len(images)))
            found[name]["features"] = maps[name][:, :, some].swapaxes(1, 2).reshape(len(inputs), len(some), -1)
        return found

    numbers = run.apply(images, describe) if axes else {}
    ranks = jax.jit(jax.vmap(functools.partial(_ranks, model)))(run.params)

    def means(kind: str) -> dict[str, np.ndarray]:
        return {name: own[kind].mean(axis=1) for name, own in numbers.items() if kind in own}

    features = {
        name: own["features"].reshape(len(run.networks), -1, own["features"].shape[-1]) for name, own in numbers.items()
    }
    return MapStatistics(means("entropy"), means("usage"), means("evenness"), jax.tree.map(np.asarray, ranks), features)


def _some_of(tokens: int, count: int) -> np.ndarray:
    """Choose tokens, the same for all blocks, networks and runs."""
    return np.sort(np.random.default_rng(0).permutation(tokens)[:count])


def _ranks(model: Any, params: Any) -> dict[str, jax.Array]:
    return {name: map_statistics.effective_rank(x) for name, x in map_statistics.memories(model, params).items()}


def similarities(statistics: MapStatistics) -> tuple[np.ndarray, dict[str, float]]:
    """Return how alike maps are: between blocks [maps, maps], mean over the networks; and of each, between networks.

    The measure is the debiased linear CKA of token weights (see cka). Between networks it is the mean over all pairs,
    and empty if there is one network only.
    """
    names, features = list(statistics.features), statistics.features
    networks = range(len(next(iter(features.values()), ())))
    between = [[np.mean([cka(features[a][i], features[b][i]) for i in networks]) for b in names] for a in names]
    pairs = [(i, j) for i in networks for j in range(i)]
    same = {name: float(np.mean([cka(own[i], own[j]) for i, j in pairs])) for name, own in features.items() if pairs}
    return np.array(between), same


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """Return the debiased linear centered kernel alignment of features [rows, …] of the same rows.

    Kornblith et al., "Similarity of Neural Network Representations Revisited" (arXiv 1905.00414), with the unbiased
    estimator of HSIC of Song et al. (JMLR 13, 2012): 1 for features that are alike up to rotation and scale, about 0
    for independent ones, however many columns they have. NaN if features do not differ between rows.
    """
    own_x, own_y = _hsic(x, x), _hsic(y, y)
    if own_x <= 0 or own_y <= 0:
        return float("nan")
    return float(_hsic(x, y) / np.sqrt(own_x * own_y))


def _hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Return Song et al.'s unbiased estimator of the Hilbert-Schmidt independence criterion, for linear kernels."""
    gram_x, gram_y, n = _gram(x), _gram(y), len(x)
    within = np.sum(gram_x * gram_y) + gram_x.sum() * gram_y.sum() / ((n - 1) * (n - 2))
    return float((within - 2 * gram_x.sum(0) @ gram_y.sum(0) / (n - 2)) / (n * (n - 3)))


def _gram(z: np.ndarray) -> np.ndarray:
    z = np.asarray(z, np.float64)
    z = z - z.mean(axis=0)
    gram = z @ z.T
    np.fill_diagonal(gram, 0)
    return gram
