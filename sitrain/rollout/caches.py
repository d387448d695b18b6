"""The cache of keys and values: prefixes are read, and it grows."""

import math
from typing import Any

import jax
from jaxtyping import Array, Int

from sitrain.models.decoder import sees_cache
from sitrain.types import Params

SEGMENTS = 8  # loops of one rollout at the most: each is compiled


def prefill(
  model: Any,
  params: Params,
  tokens: Int[Array, "P S"],
  start: Int[Array, " P"],
) -> Any:
  """The cache [P N S-1 H] of all but the last token of prefixes."""
  width = tokens.shape[1] - 1
  cache = model.make_cache(tokens.shape[0], width)
  if not width:
    return cache
  attend = sees_cache(start, 0, width, width)
  return model.apply({"params": params}, tokens[:, :width], attend, cache, 0)[1]


def cache_lengths(first: int, last: int) -> list[int]:
  """Lengths that a cache grows through, from `first` to `last` columns.

  Attention reads the whole cache, so it should be short; a step of growth
  copies it, and both are held. In n steps N columns cost N / 2n needless ones
  at each of N tokens and 2 (first + N / 2) for each copy, least at
  n = N / 2 sqrt(first + N / 2).
  """
  more = last - first
  parts = round(more / (2 * math.sqrt(first + more / 2 or 1)))
  size = -(-more // min(max(parts, 1), SEGMENTS))
  return [min(n, last) for n in range(first + size, last + size, size or 1)]


def grown(model: Any, cache: Any, rows: int, length: int) -> Any:
  """The same cache of `rows` with room for `length` columns."""
  write = lambda room, x: jax.lax.dynamic_update_slice(room, x, (0,) * x.ndim)
  return jax.tree.map(write, model.make_cache(rows, length), cache)
