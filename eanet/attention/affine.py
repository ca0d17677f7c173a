"""What the attentions share: linear layers as parameters, applied by an einsum, and the check of their input."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

_glorot = nn.initializers.glorot_uniform()


class Affine(nn.Module):
    """Own the kernel and bias of a linear layer without applying them.

    External attention multiplies neighbouring kernels together before it touches the tokens, so it
    needs the parameters themselves; and flax's DenseGeneral would initialise a 3-D kernel as if it were
    flat, which Keras does not. The last `out_axes` axes of the kernel are the output's, and the bias's.
    """

    shape: tuple[int, ...]
    out_axes: int = 1
    use_kernel: bool = True  # False: the kernel comes back as None
    use_bias: bool = True  # False: the bias comes back as zeros and is not a parameter

    @nn.compact
    def __call__(self) -> tuple[jax.Array | None, jax.Array]:
        bias_shape = self.shape[-self.out_axes :]
        kernel = self.param("kernel", _glorot, self.shape, jnp.float32) if self.use_kernel else None
        if not self.use_bias:
            return kernel, jnp.zeros(bias_shape, jnp.float32)
        return kernel, self.param("bias", nn.initializers.zeros, bias_shape, jnp.float32)


def apply_affine(equation: str, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Multiply by `equation` in the dtype of `x` and add the bias over the trailing axes."""
    y = _product(equation, x, kernel.astype(x.dtype))
    return y + bias.astype(x.dtype).reshape((1,) * (y.ndim - bias.ndim) + bias.shape)


def apply_by_heads(x_BND: jax.Array, kernel_DHK: jax.Array, bias_HK: jax.Array) -> jax.Array:
    """Multiply tokens by each head's kernel, and return them with the heads in front: [B, H, N, K]."""
    return apply_affine("BND,DHK->BHNK", x_BND, kernel_DHK, bias_HK[:, None, :])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(equation: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return the einsum of x and kernel.

    On a CPU, the matrix product for the kernel's gradient transposes its first operand, which takes a copy. In JAX's
    own rule that operand is d_y; here it is the smaller of d_y and x.
    """
    return jnp.einsum(equation, x, kernel)


def _product_gradient(equation: str, factors: tuple[jax.Array, jax.Array], d_y: jax.Array) -> tuple:
    inputs, y_axes = equation.split("->")
    x_axes, kernel_axes = inputs.split(",")
    x, kernel = factors
    d_x = jnp.einsum(f"{y_axes},{kernel_axes}->{x_axes}", d_y, kernel)
    (first_axes, first), (second_axes, second) = sorted([(x_axes, x), (y_axes, d_y)], key=lambda pair: pair[1].size)
    shared = [axis for axis in first_axes if axis in second_axes and axis not in kernel_axes]
    contracted = [[axes.index(axis) for axis in shared] for axes in (first_axes, second_axes)]
    # Not by an einsum, which would put its factors in another order.
    d_kernel = jax.lax.dot_general(first, second, (contracted, ([], [])))
    own_axes = [axis for axis in first_axes + second_axes if axis not in shared]
    return d_x, jnp.transpose(d_kernel, [own_axes.index(axis) for axis in kernel_axes])


_product.defvjp(lambda equation, x, kernel: (jnp.einsum(equation, x, kernel), (x, kernel)), _product_gradient)


def head_width(channels: int, num_heads: int, head_dim: int) -> int:
    """Return the channels of one head: head_dim, or if that is 0 an equal part of the channels.

    Raises ValueError if these cannot be divided.
    """
    if not head_dim and channels % num_heads:
        raise ValueError(f"num_heads={num_heads} does not divide the {channels} channels")
    return head_dim or channels // num_heads


def check_input(x: jax.Array) -> None:
    """Raise ValueError if x is not [batch, tokens, channels]."""
    if x.ndim != 3:
        raise ValueError(f"the input has shape {x.shape}; accepted: [batch, tokens, channels]")
