"""Ablation of a trained attention: slots, heads, or the attention of a whole block can be switched off.

A part is multiplied by a mask, 1 to keep it and 0 to remove it, from a variable collection. In training the collection
is not passed, and no mask is applied. One compiled function that takes the masks as an argument serves all removals.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

COLLECTION = "kept"


def removable(module: nn.Module, part: str, x: jax.Array, axes: tuple[int, ...] = ()) -> jax.Array:
    """Return x times the module's mask of a part, e.g. slots, which lies along some axes of x; without a mask, x."""
    shape = tuple(x.shape[axis] for axis in axes)
    if module.is_mutable_collection(COLLECTION) and not module.is_initializing():
        module.put_variable(COLLECTION, part, jnp.ones(shape, jnp.float32))
    if not module.has_variable(COLLECTION, part):
        return x
    mask = module.get_variable(COLLECTION, part)
    if mask.shape != shape:
        raise ValueError(f"the mask of {part} has shape {mask.shape}; accepted: {shape}")
    others = [axis for axis in range(x.ndim) if axis not in axes]
    return x * jnp.expand_dims(mask.astype(x.dtype), others)


def masks(model: nn.Module, params: Any, inputs: Any) -> dict[str, Any]:
    """Return masks, all 1, of everything in a model that can be removed; arguments may be shapes.

    The tree is that of the modules, e.g. {'block_0': {'attention': {'slots': [heads, slots]}, 'attended': []}}.
    """

    def traced(params: Any, inputs: Any) -> dict[str, Any]:
        return model.apply({"params": params}, inputs, mutable=[COLLECTION])[1].get(COLLECTION, {})

    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), jax.eval_shape(traced, params, inputs))
