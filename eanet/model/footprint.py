"""What a network costs: parameters, multiply-adds, memory; and what memory there is. Nothing is run."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.extend.core import jaxprs_in_params

from eanet.model.vision_transformer import DTYPES, VisionTransformer, build_model, count_parameters, make_attention

BATCH = 32  # of the program whose memory is asked for


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What one image costs, counted when it is asked for; nothing is run or compiled."""

    model: VisionTransformer
    image_shape: tuple[int, ...]  # height, width, channels

    @functools.cached_property
    def parameters(self) -> int:
        """Trainable numbers."""
        return _count_blocks(self.model, lambda model: count_parameters(parameter_shapes(model, self.image_shape)))

    @functools.cached_property
    def mmac(self) -> float:
        """Million multiply-adds of a forward pass, layer by layer as published."""
        attention = self.model.attention
        published = getattr(attention and attention(parent=None), "PUBLISHED", None)
        if not published:
            return self.mmac_executed
        return _mmac(self.model.clone(attention=functools.partial(attention, **published)), self.image_shape)

    @functools.cached_property
    def mmac_executed(self) -> float:
        """The same as it runs here.

        External and self-attention multiply neighbouring layers first if it is cheaper. The depthwise convolution is a
        sum of arrays, which is not counted.
        """
        return _mmac(self.model, self.image_shape)


def activation_bytes(model: VisionTransformer, image_shape: tuple[int, ...]) -> float:
    """Return the temporary memory of the compiled loss and gradient, per image of a batch of 32, on this backend."""

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


@functools.lru_cache(maxsize=64)
def largest_activation_bytes(model: VisionTransformer, image_shape: tuple[int, ...]) -> int:
    """Return the size of the largest array that a forward pass computes for one image, e.g. of an attention map.

    Found by tracing one block: the array that grows most from two images to three. Nothing is run or compiled.
    """
    model = model.clone(depth=min(model.depth, 1))
    params = parameter_shapes(model, image_shape)

    def sizes(batch: int) -> list[int]:
        images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
        return list(_result_bytes(jax.make_jaxpr(lambda p, x: model.apply({"params": p}, x))(params, images).jaxpr))

    # Not from one image, for which a module may leave out what spreads an array over the batch.
    return max(three - two for two, three in zip(sizes(2), sizes(3), strict=True))


def _result_bytes(jaxpr: Any) -> Iterator[int]:
    for equation in jaxpr.eqns:
        yield from (out.aval.size * out.aval.dtype.itemsize for out in equation.outvars)
        for part in jaxprs_in_params(equation.params):
            yield from _result_bytes(part)


def least_bytes(config: ml_collections.ConfigDict, image_shape: tuple[int, ...], networks: int, images: int) -> int:
    """Return the least memory that training takes: `networks` networks, one with the activations of `images` images.

    A parameter has its gradient and two moments beside it; a block keeps its input, the MLP's hidden layer and, if it
    sows one, the attention map for the gradient.
    """
    tokens, width = (image_shape[0] // config.patch_size) ** 2, DTYPES[config.dtype].dtype.itemsize
    block = tokens * width * (config.dim + config.mlp_dim) + 4 * _attention_map_size(config, tokens)
    parameters = Footprint(build_model(config, 1), image_shape).parameters
    return 16 * networks * parameters + images * config.depth * block


def _attention_map_size(config: ml_collections.ConfigDict, tokens: int) -> int:
    """Return how many numbers the attention maps of one image in one block hold; 0 for an attention without maps."""
    attention = make_attention(config)
    if attention is None:
        return 0

    def maps() -> Any:
        x = jnp.zeros((1, tokens, config.dim))
        _, variables = attention().init_with_output(jax.random.key(0), x, mutable=["params", "intermediates"])
        return variables.get("intermediates", {})

    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(maps)))


def device_bytes() -> float:
    """Return the memory of one device; CPU devices share the machine's."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    if all(limits):
        return min(limits)
    if not hasattr(os, "sysconf"):
        return math.inf
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / len(limits)


def temporary_bytes(compiled: Any) -> int:
    """Return the temporary memory of a compiled program on one device: its activations, mostly."""
    return compiled.memory_analysis().temp_size_in_bytes


@functools.lru_cache(maxsize=64)  # a run asks some times, and tracing takes long
def parameter_shapes(model: VisionTransformer, image_shape: tuple[int, ...]) -> Any:
    """Return the shapes and types of the parameters that a model has for images of [height, width, channels]."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(model.init, jax.eval_shape(lambda: jax.random.key(0)), image)["params"]


def _count_blocks(model: VisionTransformer, count: Callable[[VisionTransformer], int]) -> int:
    """Count what grows with the depth from the first two blocks: all further ones are like the second.

    Tracing a thousand of them takes long.
    """
    if model.depth <= 2:
        return count(model)
    one, two = (count(model.clone(depth=depth)) for depth in (1, 2))
    return one + (model.depth - 1) * (two - one)


def _mmac(model: VisionTransformer, image_shape: tuple[int, ...]) -> float:
    """Count what a second image adds to a batch, which leaves out products of weights, computed once per batch."""

    def macs(model: VisionTransformer, batch: int) -> int:
        params = parameter_shapes(model, image_shape)
        images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
        return count_macs(jax.make_jaxpr(lambda p, x: model.apply({"params": p}, x))(params, images).jaxpr)

    return _count_blocks(model, lambda model: macs(model, 2) - macs(model, 1)) / 1e6


def count_macs(jaxpr: Any) -> int:
    """Count the multiply-adds of all matrix products and convolutions in a jaxpr; elementwise work is not counted.

    A convolution counts where its kernel reaches over the edge, too. Raises NotImplementedError for a loop of unknown
    length, of which these networks have none.
    """
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, (out,) = equation.invars[0].aval, equation.outvars
            total += math.prod(out.aval.shape) * math.prod(left.shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel, axes = equation.invars[1].aval, equation.params["dimension_numbers"].rhs_spec
            total += equation.outvars[0].aval.size * kernel.size // kernel.shape[axes[0]]
        elif name == "while":
            raise NotImplementedError(f"no count for {name}")
        inner = sum(count_macs(part) for part in jaxprs_in_params(equation.params))
        total += inner * equation.params.get("length", 1)
    return total
