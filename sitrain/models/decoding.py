"""Attention of one token a row to what caches hold."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from sitrain.models import blocks


def attend(
  query: Float[Array, "B 1 M H"],
  cache: Sequence[Float[Array, "_ N _ H"]],
  visible: Bool[Array, "B 1 T"],
  *,
  scale: float,
  cap: float,
) -> Float[Array, "B 1 M H"]:
  """`attention.rows` of one query a row, with keys as caches hold them.

  `cache` is keys and values of one part or more, [P N S H], of T columns in
  all. Where P is less than B, B / P rows in a row share one of the part, which
  is read once for them; of its columns they see the same.
  """
  b, _, m, h = query.shape
  keys, values = cache[::2], cache[1::2]
  n, ends = keys[0].shape[1], np.cumsum([x.shape[2] for x in keys])
  seen = jnp.split(visible, ends[:-1], axis=2)
  parts = tuple(zip(keys, values, seen, strict=True))
  grouped = (query * scale).reshape(b, n, m // n, h)
  mixed = jax.lax.platform_dependent(
    grouped, parts, cpu=functools.partial(_head_by_head, cap=cap),
    default=functools.partial(_all_heads, cap=cap),
  )
  return mixed.reshape(b, 1, m, h)


def _all_heads(query, parts, cap, hold=lambda x: x):
  """Queries [B N G H]; the softmax goes over all parts.

  `hold` keeps what it is given from being made inside of a product.
  """
  mine = [_sharing(query, key.shape[0]) for key, *_ in parts]
  scores = [
    jnp.where(
      seen[:: seen.shape[0] // key.shape[0], :, None],
      blocks.soft_cap(_product("{0}h,pnth->{0}t", q, key), cap),
      blocks.MASKED,
    )
    for q, (key, _, seen) in zip(mine, parts, strict=True)
  ]
  back = lambda x: _apart(x, query.shape)
  highest = [back(jnp.max(s, axis=-1, keepdims=True)) for s in scores]
  top = functools.reduce(jnp.maximum, highest)
  weights = hold([jnp.exp(s - _sharing(top, s.shape[0])) for s in scores])
  total = sum(back(jnp.sum(w, axis=-1, keepdims=True)) for w in weights)
  mixed = sum(
    back(_product("{0}t,pnth->{0}h", w.astype(value.dtype), value))
    for w, (_, value, _) in zip(weights, parts, strict=True)
  )
  return (mixed / total).astype(query.dtype)


def _sharing(x, rows):
  """[B N G X] -> [P N Q X]: the queries of rows that share one of a part."""
  b, n, g, width = x.shape
  x = x.reshape(rows, b // rows, n, g, width)
  return x.swapaxes(1, 2).reshape(rows, n, -1, width)


def _apart(x, shape):
  """[P N Q X] -> [B N G X], back from `_sharing`."""
  b, n, g, _ = shape
  rows, width = x.shape[0], x.shape[-1]
  x = x.reshape(rows, n, b // rows, g, width)
  return x.swapaxes(1, 2).reshape(b, n, g, width)


def _product(spec, x, other):
  """An einsum of [P N Q X]; a single query is no axis of it."""
  f32 = dict(preferred_element_type=jnp.float32)
  if x.shape[2] > 1:
    return jnp.einsum(spec.format("pnq"), x, other, **f32)
  return jnp.einsum(spec.format("pn"), x[:, :, 0], other, **f32)[:, :, None]


def _head_by_head(query, parts, cap):
  """The same with one head of a group at a time.

  XLA on CPU makes products of matrix and vector itself, at the speed of the
  memory, and hands thin matrices to a library that takes twice as long. The
  barriers keep it from making rotations and exponentials anew inside of them.
  """
  hold = jax.lax.optimization_barrier
  query, parts = hold((query, parts))
  heads = jnp.split(query, query.shape[2], axis=2)
  return jnp.concatenate(
    [_all_heads(q, parts, cap, hold) for q in heads], axis=2
  )
