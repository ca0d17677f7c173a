"""Numbers that describe attention maps and memories: how much a slot is used, how even maps are, effective ranks.

Shape suffixes: B batch, H heads, N tokens, S memory slots, M other tokens; K is S or M. An image's map has its axes in
the order that its attention's MAPS says.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

OVER_TOKENS = "_over_tokens"  # ends the name of a map as it was before a norm over the slots, if there is one
FLAT = 0.999  # evenness over the tokens from which a slot's map counts as flat


def map_axes(model: nn.Module) -> dict[str, str]:
    """Return the axes of the maps that a model's attention stores, by their names; empty if it says none."""
    return dict(getattr(model.attention and model.attention(parent=None), "MAPS", {}))


def stored_maps(model: nn.Module, params: Any, inputs: jax.Array) -> dict[str, jax.Array]:
    """Return the maps of every block as [B, H, N, K], by block and name, e.g. block_0/attention_map.

    A map that a norm over the slots has changed also comes as it was before, block_0/attention_map_over_tokens.
    """
    axes = map_axes(model)
    if not axes:
        return {}
    _, state = model.apply({"params": params}, inputs, mutable=["intermediates"])
    leaves = jax.tree_util.tree_leaves_with_path(state.get("intermediates", {}))
    stored = {(path[0].key, path[-2].key): leaf for path, leaf in leaves}
    return {
        f"{block}/{name}": by_heads(leaf, axes[of])
        for (block, name), leaf in stored.items()
        if (of := name.removesuffix(OVER_TOKENS)) in axes
    }


def by_heads(stored: jax.Array, axes: str) -> jax.Array:
    """Return a stored map, whose axes after the batch are given, as [B, H, N, K]."""
    slots = "S" if "S" in axes else "M"
    return jnp.einsum(f"B{axes}->BHN{slots}", stored)


def describe_all(maps: Mapping[str, jax.Array], axes: Mapping[str, str]) -> dict[str, dict[str, jax.Array]]:
    """Return what describe gives for each of the maps that stored_maps returns; axes are those of map_axes."""
    names = [name for name in maps if not name.endswith(OVER_TOKENS)]
    return {name: describe(maps[name], axes[name.split("/")[1]], maps.get(name + OVER_TOKENS)) for name in names}


def describe(map_BHNK: jax.Array, axes: str, over_tokens_BHNK: jax.Array | None = None) -> dict[str, jax.Array]:
    """Return numbers for every image, float32 [B, …], of a map between tokens and slots or other tokens.

    entropy [B, H] is that of a token's weights, divided by its largest value, ln(K): 1 if they are all alike. For
    slots also usage [B, H, S], a slot's share of all weight times S, so that 1 is an even share; and evenness
    [B, H, S], the entropy of its weights over the tokens divided by ln(N): 1 is a flat map. It is taken from the map
    before a norm over the slots, if that is given. Weights are absolute values, as a normalisation may make negative
    ones.
    """
    weight = jnp.abs(map_BHNK.astype(jnp.float32))
    found = {"entropy": jnp.mean(_entropy(weight, axis=-1), axis=-1)}
    if "S" in axes:
        total_BHS = jnp.sum(weight, axis=2)
        found["usage"] = total_BHS / jnp.maximum(jnp.mean(total_BHS, axis=-1, keepdims=True), _TINY)
        over_tokens = weight if over_tokens_BHNK is None else over_tokens_BHNK.astype(jnp.float32)
        found["evenness"] = _entropy(over_tokens, axis=2)
    return found


_TINY = jnp.finfo(jnp.float32).tiny


def _entropy(weight: jax.Array, axis: int) -> jax.Array:
    """Return the entropy of weights along an axis, divided by its largest value; 1 if there is one weight only."""
    if weight.shape[axis] == 1:
        return jnp.ones(jnp.sum(weight, axis=axis).shape)
    share = weight / jnp.maximum(jnp.sum(weight, axis=axis, keepdims=True), _TINY)
    return -jnp.sum(share * jnp.log(jnp.maximum(share, _TINY)), axis=axis) / jnp.log(weight.shape[axis])


def effective_rank(matrix: jax.Array) -> jax.Array:
    """Return exp(entropy of the singular values' shares): Roy and Vetterli, "The effective rank" (EUSIPCO 2007).

    It lies between 1 and the smaller side. Of [..., rows, columns] the mean over the leading axes.
    """
    values = jnp.linalg.svd(matrix.astype(jnp.float32), compute_uv=False)
    share = values / jnp.maximum(jnp.sum(values, axis=-1, keepdims=True), _TINY)
    return jnp.mean(jnp.exp(-jnp.sum(share * jnp.log(jnp.maximum(share, _TINY)), axis=-1)))


def memories(model: nn.Module, params: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Return the learned memories that a model's attention names, by place and name, e.g. block_0/memory_key.

    Memories that the blocks share have the place shared.
    """
    names = getattr(model.attention and model.attention(parent=None), "MEMORIES", ())
    blocks = {place: part for place, part in params.items() if isinstance(part, Mapping) and "attention" in part}
    places = {"shared": params} | {place: part["attention"] for place, part in blocks.items()}
    found = {f"{place}/{name}": own[name] for place, own in places.items() for name in names if name in own}
    arrays = {name: x.get("kernel") if isinstance(x, Mapping) else x for name, x in found.items()}
    return {name: x for name, x in arrays.items() if x is not None}


def summarize(model: nn.Module, params: Mapping[str, Any], inputs: jax.Array) -> dict[str, jax.Array]:
    """Return a few numbers for each block, e.g. block_0/entropy, as means over images and heads; scalars.

    smallest_usage is of the slot used least, flat_slots counts slots whose map is flat in all heads, rank_memory_key
    is an effective rank. Empty if the attention names neither maps nor memories.
    """
    axes, found = map_axes(model), {}
    for name, by_image in describe_all(stored_maps(model, params, inputs), axes).items():
        block, own = name.split("/")
        place = f"{block}/" if len(axes) == 1 else f"{block}/{own.removesuffix('_map')}_"
        numbers = jax.tree.map(lambda x: jnp.mean(x, axis=0), by_image)
        found[f"{place}entropy"] = jnp.mean(numbers["entropy"])
        if "usage" in numbers:
            found[f"{place}smallest_usage"] = jnp.min(jnp.mean(numbers["usage"], axis=0))
            flat = jnp.all(numbers["evenness"] >= FLAT, axis=0)
            found[f"{place}flat_slots"] = jnp.sum(flat.astype(jnp.float32))
    for name, memory in memories(model, params).items():
        found[name.replace("/", "/rank_")] = effective_rank(memory)
    return found
