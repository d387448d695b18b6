"""Attention: of rows to themselves, of forked rows, and of one token to caches.

`attend` reads whole rows, for the update, for scoring and for prefill;
`attend_forked` reads rows whose branches share a trunk; `attend_one` reads one
new token a row while decoding. All of them are grouped-query attention with a
float32 softmax: the M = N x G query heads are grouped around the N key heads
by a reshape, so keys are never repeated (Ainslie et al. 2023). The
attention mask is an argument; decoder.py makes it (`sees_rows`, `sees_cache`).

The scores of a row are [heads, T, T]. `attend` has several kinds, most of
which never keep all of them. `plain` and `chunked` take everything; the others
are kernels for accelerators, see kernels.py.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from sitrain.models import kernels
from sitrain.models.blocks import MASKED, soft_cap

KINDS = ("auto", "plain", "chunked", "cudnn", "triton", "splash")
SHORT = 512  # the longest row for which "auto" keeps all scores
CHUNK = 128  # queries of a row whose scores are kept at a time
BANDS = 8  # parts of a row that are compiled separately, each with its own keys
_F32 = dict(preferred_element_type=jnp.float32)


class Fork(NamedTuple):
  """The columns of a forked row: the trunk, then the branches."""

  trunk: int
  branches: int
  length: int  # of a branch


def attend(
  query: Float[Array, "B Q M H"],
  key: Float[Array, "B N T H"],
  value: Float[Array, "B N T H"],
  visible: Bool[Array, "B Q T"],
  *,
  kind: str,
  scale: float,
  cap: float,
  local: bool = False,
) -> Float[Array, "B Q M H"]:
  """Attention of rows to themselves.

  `visible` must be lower triangular. Where the queries are only a part of the
  row, the kind is "plain"; "auto" is "plain" up to SHORT columns and "chunked"
  above. Fully masked queries return garbage; callers ignore it. `local` says
  whether the model has local layers, so that `visible` may be a window. Raises
  ValueError for an unknown kind and for one that does not support the model.
  """
  _check(kind, cap, query.dtype, local)
  if query.shape[1] != key.shape[2]:
    kind = "plain"
  function = _KINDS[settled(kind, query.shape[1])]
  try:
    return function(query, key, value, visible, scale, cap)
  except (ImportError, NotImplementedError, RuntimeError) as error:
    raise ValueError(f"config.model.attention={kind!r}: {error}") from error


def settled(kind: str, length: int) -> str:
  """The kind that is used for rows of a length: "auto" decides by it."""
  if length == 1:  # Parameters are initialised with one token.
    return "plain"
  return kind if kind != "auto" else "plain" if length <= SHORT else "chunked"


def queries_at_once(kind: str, length: int) -> int:
  """Queries of a row whose scores are in memory at the same time."""
  return length if settled(kind, length) == "plain" else min(CHUNK, length)


def _check(kind, cap, dtype, local):
  name = f"config.model.attention={kind!r}"
  if kind not in KINDS:
    raise ValueError(f"{name}: choose one of {', '.join(KINDS)}")
  if kind == "cudnn" and cap:
    raise ValueError(f"{name} has no soft cap ({cap}): choose triton, chunked")
  if kind == "cudnn" and jnp.dtype(dtype).itemsize != 2:
    raise ValueError(f"{name} needs config.model.dtype='bfloat16'")
  if kind == "splash" and local:
    raise ValueError(f"{name} has no local layers: choose chunked")


def _group_heads(query, key, scale):
  """Scaled queries [B Q M H] -> [B N G Q H].

  With the axes in this order XLA on CPU needs four fifths of the time for
  short rows.
  """
  b, t, m, h = query.shape
  n = key.shape[1]
  return (query * scale).reshape(b, t, n, m // n, h).transpose(0, 2, 3, 1, 4)


def _ungroup_heads(mixed):
  """[B N G Q H] -> [B Q M H]."""
  b, n, g, t, h = mixed.shape
  return mixed.transpose(0, 3, 1, 2, 4).reshape(b, t, n * g, h)


def _attend_grouped(query, key, value, visible, cap):
  """Grouped queries to the first S keys; visible [B Q S]."""
  columns = visible.shape[-1]
  key, value = key[:, :, :columns], value[:, :, :columns]
  scores = jnp.einsum("bngqh,bnth->bngqt", query, key, **_F32)
  scores = jnp.where(visible[:, None, None], soft_cap(scores, cap), MASKED)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  return jnp.einsum("bngqt,bnth->bngqh", weights, value)


def _plain(query, key, value, visible, scale, cap):
  query = _group_heads(query, key, scale)
  return _ungroup_heads(_attend_grouped(query, key, value, visible, cap))


def _chunked(query, key, value, visible, scale, cap):
  """CHUNK queries at a time, recomputed in the backward pass.

  The chunks of a band read only the keys up to the band's end, so that 7 in 8
  of the scores above the diagonal are never computed.
  """
  length, query = query.shape[1], _group_heads(query, key, scale)
  count = math.ceil(math.ceil(length / CHUNK) / BANDS)  # chunks of a band
  width = min(CHUNK * count, length)
  one_chunk = jax.checkpoint(functools.partial(_attend_grouped, cap=cap))

  def band(start):
    end = min(start + width, length)
    queries, mask = query[:, :, :, start:end], visible[:, start:end, :end]
    if count == 1:
      return one_chunk(queries, key, value, mask)
    padding = CHUNK * count - (end - start)
    queries = jnp.pad(queries, [(0, 0)] * 3 + [(0, padding), (0, 0)])
    mask = jnp.pad(mask, [(0, 0), (0, padding), (0, 0)])
    chunks = _split_axis(queries, 3, count), _split_axis(mask, 1, count)
    mixed = jax.lax.map(lambda x: one_chunk(x[0], key, value, x[1]), chunks)
    mixed = jnp.moveaxis(mixed, 0, 3)
    return mixed.reshape(*queries.shape)[:, :, :, : end - start]

  bands = [band(start) for start in range(0, length, width)]
  return _ungroup_heads(jnp.concatenate(bands, axis=3))


def _split_axis(x, axis, count):
  """Splits an axis into `count` parts, whose axis comes first."""
  shape = x.shape[:axis] + (count, -1) + x.shape[axis + 1 :]
  return jnp.moveaxis(x.reshape(shape), axis, 0)


_KINDS = {
  "plain": _plain, "chunked": _chunked, "cudnn": kernels.cudnn,
  "triton": kernels.triton, "splash": kernels.splash,
}


def attend_forked(
  query: Float[Array, "B Q M H"],
  key: Float[Array, "B N Q H"],
  value: Float[Array, "B N Q H"],
  visible: Bool[Array, "B Q Q"],
  *,
  fork: Fork,
  scale: float,
  cap: float,
) -> Float[Array, "B Q M H"]:
  """Attention of forked rows: a branch sees the trunk and itself.

  Only the scores that `visible` can allow are computed; the softmax of a branch
  goes over both parts.
  """
  end, query = fork.trunk, _group_heads(query, key, scale)
  trunk = _attend_grouped(
    query[..., :end, :], key, value, visible[:, :end, :end], cap
  )
  branches, trunk_value = query[..., end:, :], value[:, :, :end]
  own_key, own_value = (
    _split_branches(x[:, :, end:], 2, fork) for x in (key, value)
  )
  to_trunk = jnp.einsum(
    "bngqh,bnth->bngqt", branches, key[:, :, :end], **_F32
  )
  to_own = jnp.einsum(
    "bngrqh,bnrth->bngrqt", _split_branches(branches, 3, fork), own_key, **_F32
  ).reshape(*to_trunk.shape[:-1], fork.length)
  mask = jnp.concatenate(
    [visible[:, end:, :end], _own_columns(visible, fork)], axis=-1
  )
  scores = soft_cap(jnp.concatenate([to_trunk, to_own], axis=-1), cap)
  scores = jnp.where(mask[:, None, None], scores, MASKED)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  of_trunk = jnp.einsum("bngqt,bnth->bngqh", weights[..., :end], trunk_value)
  of_own = jnp.einsum(
    "bngrqt,bnrth->bngrqh", _split_branches(weights[..., end:], 3, fork),
    own_value,
  )
  mixed = of_trunk + of_own.reshape(of_trunk.shape)
  return _ungroup_heads(jnp.concatenate([trunk, mixed], axis=3))


def _split_branches(x, axis, fork):
  """Splits the axis of all branches' columns into branches and columns."""
  before, after = x.shape[:axis], x.shape[axis + 1 :]
  return x.reshape(*before, fork.branches, fork.length, *after)


def _own_columns(visible, fork):
  """What each branch sees of itself: [B Q Q] -> [B G * L, L]."""
  mask = visible[:, fork.trunk :, fork.trunk :]
  blocks = _split_branches(_split_branches(mask, 1, fork), 3, fork)
  own = jnp.moveaxis(jnp.diagonal(blocks, axis1=1, axis2=3), -1, 1)
  return own.reshape(mask.shape[0], -1, fork.length)


def attend_one(
  query: Float[Array, "B 1 M H"],
  cache: Sequence[Float[Array, "_ N _ H"]],
  visible: Bool[Array, "B 1 T"],
  *,
  scale: float,
  cap: float,
) -> Float[Array, "B 1 M H"]:
  """Attention of one new token a row to its cache.

  `cache` is keys and values of one part or more, [P N S H], of T columns in
  all. Where P is less than B, each of its P rows is shared by B / P consecutive
  rows and read once for them; they must see the same of its columns.
  """
  b, _, m, h = query.shape
  keys, values = cache[::2], cache[1::2]
  n, ends = keys[0].shape[1], np.cumsum([x.shape[2] for x in keys])
  masks = jnp.split(visible, ends[:-1], axis=2)
  parts = tuple(zip(keys, values, masks, strict=True))
  grouped = (query * scale).reshape(b, n, m // n, h)
  mixed = jax.lax.platform_dependent(
    grouped, parts, cpu=functools.partial(_head_by_head, cap=cap),
    default=functools.partial(_all_heads, cap=cap),
  )
  return mixed.reshape(b, 1, m, h)


def _all_heads(query, parts, cap, barrier=lambda x: x):
  """Queries [B N G H] to all parts of the cache, under one softmax."""
  scores = []
  for key, _, mask in parts:
    queries = _to_cache_rows(query, key.shape[0])
    mask = mask[:: mask.shape[0] // key.shape[0], :, None]
    capped = soft_cap(_query_key(queries, key), cap)
    scores.append(jnp.where(mask, capped, MASKED))
  to_rows = lambda x: _from_cache_rows(x, query.shape)
  highest = [to_rows(jnp.max(s, axis=-1, keepdims=True)) for s in scores]
  top = functools.reduce(jnp.maximum, highest)
  weights = barrier(
    [jnp.exp(s - _to_cache_rows(top, s.shape[0])) for s in scores]
  )
  total = sum(to_rows(jnp.sum(w, axis=-1, keepdims=True)) for w in weights)
  mixed = sum(
    to_rows(_weight_value(w.astype(value.dtype), value))
    for w, (_, value, _) in zip(weights, parts, strict=True)
  )
  return (mixed / total).astype(query.dtype)


def _to_cache_rows(x, rows):
  """[B N G X] -> [P N Q X]: queries by the row of the cache that they share."""
  b, n, g, width = x.shape
  x = x.reshape(rows, b // rows, n, g, width)
  return x.swapaxes(1, 2).reshape(rows, n, -1, width)


def _from_cache_rows(x, shape):
  """[P N Q X] -> [B N G X], the inverse of `_to_cache_rows`."""
  b, n, g, _ = shape
  rows, width = x.shape[0], x.shape[-1]
  x = x.reshape(rows, n, b // rows, g, width)
  return x.swapaxes(1, 2).reshape(b, n, g, width)


def _query_key(query, key):
  """Scores [P N Q T] in float32.

  A single query is no axis of the product, which then is a matrix times a
  vector, on CPU about twice as fast.
  """
  if query.shape[2] > 1:
    return jnp.einsum("pnqh,pnth->pnqt", query, key, **_F32)
  return jnp.einsum("pnh,pnth->pnt", query[:, :, 0], key, **_F32)[:, :, None]


def _weight_value(weights, value):
  """Mixed values [P N Q H] in float32; a single query as in `_query_key`."""
  if weights.shape[2] > 1:
    return jnp.einsum("pnqt,pnth->pnqh", weights, value, **_F32)
  mixed = jnp.einsum("pnt,pnth->pnh", weights[:, :, 0], value, **_F32)
  return mixed[:, :, None]


def _head_by_head(query, parts, cap):
  """`_all_heads` for one query head of each group at a time, for CPUs.

  XLA computes a matrix times a vector itself, at the speed of the memory, but
  hands thin matrices to a library that takes twice as long. The barriers keep
  it from recomputing rotations and exponentials inside of the products.
  """
  barrier = jax.lax.optimization_barrier
  query, parts = barrier((query, parts))
  heads = jnp.split(query, query.shape[2], axis=2)
  return jnp.concatenate(
    [_all_heads(q, parts, cap, barrier) for q in heads], axis=2
  )
