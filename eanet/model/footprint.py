"""What a network costs: parameters, multiply-adds, memory; and what memory there is. Nothing is run."""

import dataclasses
import functools
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.extend.core import jaxprs_in_params

from eanet.attention.external import ExternalAttention
from eanet.model.vision_transformer import DTYPES, VisionTransformer, count_parameters

BATCH = 32  # of the program whose memory is asked for


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What one image costs, counted when it is asked for; nothing is run or compiled."""

    model: VisionTransformer
    image_shape: tuple[int, ...]  # height, width, channels

    @functools.cached_property
    def parameters(self) -> int:
        """Trainable numbers."""
        return count_parameters(parameter_shapes(self.model, self.image_shape))

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
        parameter_shapes(model, image_shape),
        jax.ShapeDtypeStruct((BATCH, *image_shape), jnp.float32),
        jax.ShapeDtypeStruct((BATCH,), jnp.int32),
        jax.eval_shape(lambda: jax.random.key(0)),
    )
    return temporary_bytes(jax.jit(jax.grad(loss)).lower(*shapes).compile()) / BATCH


def parameters_of(config: ml_collections.ConfigDict, image_shape: tuple[int, ...], classes: int) -> int:
    """Count the parameters that `config.model` describes without building it, which takes long for a huge one."""
    dim, (side, _, channels) = config.dim, image_shape
    tokens = _tokens(config, side)
    block = 2 * dim + 2 * dim * config.mlp_dim + config.mlp_dim + dim
    memories = 0
    if config.attention == "self":
        width = config.num_heads * (config.head_dim or dim // config.num_heads)
        block += 2 * dim + 3 * (dim + 1) * width + (width + 1) * dim
    elif config.attention == "external":
        width, head_dim = dim * config.dim_coefficient, dim // config.num_heads
        slots = config.memory_size or dim // config.dim_coefficient
        block += 2 * dim + (dim + 1) * width + (width + 1) * dim
        memories = head_dim * slots * (1 if config.tie_memories else 2) + config.memory_bias * (slots + head_dim)
    pairs = min(config.depth, 1) if config.share_memories else config.depth
    ends = (config.patch_size**2 * channels + 1) * dim + tokens * dim + (dim + 1) * classes
    return config.depth * block + pairs * memories + ends + dim * (config.pool == "cls") + 2 * dim * config.final_norm


def least_bytes(config: ml_collections.ConfigDict, image_shape: tuple[int, ...], networks: int, images: int) -> int:
    """Give what training takes at least: networks of `config.model`, the activations of some images of one of them.

    A parameter has its gradient and two moments beside it; a block keeps its input, the MLP's hidden layer and the
    attention map for the gradient.
    """
    tokens, width = _tokens(config, image_shape[0]), DTYPES[config.dtype].dtype.itemsize
    attended = 0
    if config.attention == "self":
        attended = config.num_heads * tokens
    elif config.attention == "external":
        slots = config.memory_size or config.dim // config.dim_coefficient
        attended = config.num_heads * config.dim_coefficient * slots
    block = tokens * (width * (config.dim + config.mlp_dim) + 4 * attended)
    return 16 * networks * parameters_of(config, image_shape, 0) + images * config.depth * block


def device_bytes() -> float:
    """Give the memory of one device; CPU devices share the machine's."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    if all(limits):
        return min(limits)
    if not hasattr(os, "sysconf"):
        return math.inf
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / len(limits)


def _tokens(config: ml_collections.ConfigDict, side: int) -> int:
    return (side // config.patch_size) ** 2 + (config.pool == "cls")


def temporary_bytes(compiled: Any) -> int:
    """Give the temporary memory of a compiled program on one device: its activations, mostly."""
    return compiled.memory_analysis().temp_size_in_bytes


def parameter_shapes(model: VisionTransformer, image_shape: tuple[int, ...]) -> Any:
    """Return the shapes and types of the parameters that a model has for images of [height, width, channels]."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(model.init, jax.eval_shape(lambda: jax.random.key(0)), image)["params"]


def _mmac(model: VisionTransformer, image_shape: tuple[int, ...]) -> float:
    """Count by the second image of a batch, so that products of weights alone, made once a batch, stay out."""
    params = parameter_shapes(model, image_shape)

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
