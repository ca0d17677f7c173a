"""The softmax of dot products, applied to values: the core of self-attention, with a gradient of its own.

Shape suffixes: G groups that attend apart, R rows (queries), M tokens, K channels of a key, V channels of a value; for
several heads B batch and H heads instead of G.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from eanet.attention.dropout import Dropout


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend(
    query_GRK: jax.Array,
    key_GMK: jax.Array,
    value_GMV: jax.Array,
    keep_GRM: jax.Array | None = None,
    scale: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Return softmax(query · key) @ value in the dtype of the values, and the sums of the map's rows, float32 [G, R].

    keep is False where dropout zeroes the map, and scale multiplies the entries that are kept. Without dropout the
    sums are 1. The softmax is normalised after the product with the values, where there are fewer numbers to divide.
    The exponentials are stored for the gradient; Rabe and Staats (arXiv 2112.05682) and FlashAttention (arXiv
    2205.14135) recompute them, which is slower on a CPU. Forward-mode differentiation is not supported.
    """
    return _attend(query_GRK, key_GMK, value_GMV, keep_GRM, scale)[0]


def attend_by_heads(
    query_BHRK: jax.Array, key_BHMK: jax.Array, value_BHMV: jax.Array, dropout: Dropout | None = None
) -> jax.Array:
    """Return softmax(query · key) @ value for each head, [B, H, R, V]; dropout draws what the map loses."""
    query_GRK, key_GMK, value_GMV = (x.reshape(-1, *x.shape[2:]) for x in (query_BHRK, key_BHMK, value_BHMV))
    keep_GRM, scale = None, 1.0
    if dropout is not None:
        keep_BHRM, scale = dropout.draw((*query_BHRK.shape[:3], key_BHMK.shape[2]))
        keep_GRM = keep_BHRM.reshape(-1, *keep_BHRM.shape[2:])
    out_GRV, _ = attend(query_GRK, key_GMK, value_GMV, keep_GRM, scale)
    return out_GRV.reshape(*query_BHRK.shape[:3], -1)


def attention_map(query: jax.Array, key: jax.Array) -> jax.Array:
    """Return softmax(query · key), without dropout, in float32: [..., R, M] for [..., R, K] and [..., M, K]."""
    return jax.nn.softmax(_dot("...RK,...MK->...RM", query, key), axis=-1)


def _dot(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Multiply and accumulate in float32, also where the factors are narrower."""
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


def _dropped(x_GRM: jax.Array, keep_GRM: jax.Array | None) -> jax.Array:
    return x_GRM if keep_GRM is None else jnp.where(keep_GRM, x_GRM, jnp.zeros((), x_GRM.dtype))


def _attend(
    query_GRK: jax.Array, key_GMK: jax.Array, value_GMV: jax.Array, keep_GRM: jax.Array | None, scale: float
) -> tuple[tuple[jax.Array, jax.Array], tuple]:
    """Return what attend does, and what its gradient needs."""
    logits_GRM = _dot("GRK,GMK->GRM", query_GRK, key_GMK)
    exp_GRM = jnp.exp(logits_GRM - jnp.max(logits_GRM, axis=-1, keepdims=True))
    sum_GR1 = jnp.sum(exp_GRM, axis=-1, keepdims=True)
    dropped_GRM = _dropped(exp_GRM, keep_GRM)
    rows_GR = jnp.ones(sum_GR1.shape[:-1]) if keep_GRM is None else scale * jnp.sum(dropped_GRM, -1) / sum_GR1[..., 0]
    exp_GRM = exp_GRM.astype(value_GMV.dtype)
    out_GRV = _dot("GRM,GMV->GRV", dropped_GRM.astype(value_GMV.dtype), value_GMV) * (scale / sum_GR1)
    out_GRV = out_GRV.astype(value_GMV.dtype)
    return (out_GRV, rows_GR), (query_GRK, key_GMK, value_GMV, keep_GRM, exp_GRM, sum_GR1, out_GRV, rows_GR)


def _gradient(scale: float, kept: tuple, cotangents: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
    """With p the map and P what dropout leaves of it: dl = P · dP - p · Σ(P · dP), and the sum is Σ(out · d out)."""
    query_GRK, key_GMK, value_GMV, keep_GRM, exp_GRM, sum_GR1, out_GRV, rows_GR = kept
    d_out_GRV, d_rows_GR = cotangents
    d_out_GRV = d_out_GRV.astype(jnp.float32)
    inner_GR1 = jnp.sum(d_out_GRV * out_GRV, axis=-1, keepdims=True) + (d_rows_GR * rows_GR)[..., None]
    d_out_GRV, d_rows_GR1 = d_out_GRV * (scale / sum_GR1), d_rows_GR[..., None] * (scale / sum_GR1)
    d_out_GRV = d_out_GRV.astype(value_GMV.dtype)
    d_value_GMV = _dot("GRM,GRV->GMV", _dropped(exp_GRM, keep_GRM), d_out_GRV)
    d_map_GRM = _dropped(_dot("GRV,GMV->GRM", d_out_GRV, value_GMV) + d_rows_GR1, keep_GRM)
    d_logits_GRM = (exp_GRM * (d_map_GRM - inner_GR1 / sum_GR1)).astype(query_GRK.dtype)
    d_query_GRK = _dot("GRM,GMK->GRK", d_logits_GRM, key_GMK).astype(query_GRK.dtype)
    d_key_GMK = _dot("GRM,GRK->GMK", d_logits_GRM, query_GRK).astype(key_GMK.dtype)
    return d_query_GRK, d_key_GMK, d_value_GMV.astype(value_GMV.dtype), None


attend.defvjp(_attend, _gradient)
