"""What a network costs: parameters, multiply-adds, activation memory. Nothing is run."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import jaxprs_in_params

from eanet.attention import ExternalAttention
from eanet.model import VisionTransformer, count_parameters

BATCH = 32  # of the program whose memory is asked for


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What one image costs, counted when it is asked for; nothing is run or compiled."""

    model: VisionTransformer
    image_shape: tuple[int, ...]  # height, width, channels

    @functools.cached_property
    def parameters(self) -> int:
        """Trainable numbers."""
        return count_parameters(_parameter_shapes(self.model, self.image_shape))

    @functools.cached_property
    def mmac(self) -> float:
        """Million multiply-adds of a forward pass, layer by layer as published."""
        attention = self.model.attention
        if isinstance(attention, functools.partial) and attention.func is ExternalAttention:
            return _mmac(self.model.clone(attention=functools.partial(attention, merge_linear=False)), self.image_shape)
        return self.mmac_executed

    @functools.cached_property
    def mmac_executed(self) -> float:
        """The same as it runs here: external attention multiplies neighbouring layers first."""
        return _mmac(self.model, self.image_shape)


def activation_bytes(model: VisionTransformer, image_shape: tuple[int, ...]) -> float:
    """Give the temporary memory of the compiled loss and gradient, per image of a batch of 32, on this backend."""

    def loss(params: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        logits = model.apply({"params": params}, images, deterministic=False, rngs={"dropout": key})
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    shapes = (
        _parameter_shapes(model, image_shape),
        jax.ShapeDtypeStruct((BATCH, *image_shape), jnp.float32),
        jax.ShapeDtypeStruct((BATCH,), jnp.int32),
        jax.eval_shape(lambda: jax.random.key(0)),
    )
    return temporary_bytes(jax.jit(jax.grad(loss)).lower(*shapes).compile()) / BATCH


def temporary_bytes(compiled: Any) -> int:
    """Give the temporary memory of a compiled program on one device: its activations, mostly."""
    return compiled.memory_analysis().temp_size_in_bytes


def _parameter_shapes(model: VisionTransformer, image_shape: tuple[int, ...]) -> Any:
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(model.init, jax.eval_shape(lambda: jax.random.key(0)), image)["params"]


def _mmac(model: VisionTransformer, image_shape: tuple[int, ...]) -> float:
    """Count by the second image of a batch, so that products of weights alone, made once a batch, stay out."""
    params = _parameter_shapes(model, image_shape)

    def macs(batch: int) -> int:
        images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
        return count_macs(jax.make_jaxpr(lambda p, x: model.apply({"params": p}, x))(params, images).jaxpr)

    return (macs(2) - macs(1)) / 1e6


def count_macs(jaxpr: Any) -> int:
    """Count the multiply-adds of all matrix products in a jaxpr; elementwise work is no multiply-add.

    Raises NotImplementedError for a convolution or a loop of unknown length, of which these networks have none.
    """
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, (out,) = equation.invars[0].aval, equation.outvars
            total += math.prod(out.aval.shape) * math.prod(left.shape[axis] for axis in contracted)
        elif name.startswith("conv_general") or name == "while":
            raise NotImplementedError(f"no count for {name}")
        inner = sum(count_macs(part) for part in jaxprs_in_params(equation.params))
        total += inner * equation.params.get("length", 1)
    return total
