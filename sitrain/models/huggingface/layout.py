"""Parameters of the decoder in the layout of checkpoints, and back.

Theirs are matrices [out, in], one per layer; ours are stacked, [layers, in...,
out...], with heads as an axis of their own. A slice of ours is a slice of
theirs, so each can be made from parts of the other.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array

from sitrain.models import heads
from sitrain.models.huggingface import tensorfile
from sitrain.models.huggingface.tensorfile import Tensor
from sitrain.models.parameters import INPUTS

WORKERS = 8  # layers that are read at once

Ranges = tuple[tuple[int, int], ...]  # (start, stop) of every axis


def inputs_of(path: str) -> int:
  """How many leading axes of a layer's parameter are inputs; 0: no projection.

  Those of adapters, see lora.py: of A that of what it adapts, of B the rank.
  """
  name = path.rpartition("/")[2]
  adapted, part = name[:-2], name[-2:]
  if adapted in INPUTS and part in ("_a", "_b"):
    return INPUTS[adapted] if part == "_a" else 1
  return INPUTS.get(name, 0)


def stored_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape of a layer's parameter in a checkpoint, given ours."""
  name = path.rpartition("/")[2]
  if inputs := inputs_of(path):
    return math.prod(shape[inputs:]), math.prod(shape[:inputs])
  if name == heads.NAME:
    return (1, *shape)
  return (math.prod(shape),) if name.endswith("_bias") else shape


def stored(path: str, value: np.ndarray) -> np.ndarray:
  """A parameter of one layer in the layout of checkpoints."""
  inputs = inputs_of(path)
  axes = (*range(inputs, value.ndim), *range(inputs))
  turned = np.ascontiguousarray(value.transpose(axes))
  return turned.reshape(stored_shape(path, value.shape))


def read_array(path: str, sources: Sequence[Tensor], leaf: Any) -> Array:
  """The parameter `path`, each shard made of what it needs of `sources`.

  Args:
    path: "layers/query"; what is not of a layer has one source.
    sources: the tensor of every layer, of the right shapes.
    leaf: ShapeDtypeStruct, with a sharding or without.
  """
  if path == heads.NAME:  # Of its one row.
    sources = [x._replace(shape=x.shape[1:]) for x in sources]
  sharding = leaf.sharding or SingleDeviceSharding(jax.local_devices()[0])
  shape = leaf.shape if path.startswith("layers/") else (1, *leaf.shape)
  places = sharding.addressable_devices_indices_map(leaf.shape).values()
  ranges = {_ranges(place, leaf.shape) for place in places}
  found = pieces(path, sources, shape, leaf.dtype, ranges)

  def piece(place):
    mine = _ranges(place, leaf.shape)
    return found[mine].reshape([stop - start for start, stop in mine])

  return jax.make_array_from_callback(leaf.shape, sharding, piece)


def _ranges(place, shape) -> Ranges:
  return tuple(
    part.indices(size)[:2] for part, size in zip(place, shape, strict=True)
  )


def pieces(
  path: str,
  sources: Sequence[Tensor],
  shape: tuple[int, ...],
  dtype: Any,
  wanted: set[Ranges],
) -> dict[Ranges, np.ndarray]:
  """Parts of a stacked parameter; rows that several need are read once.

  `shape` has the axis of layers; ranges of a parameter without lack it.
  """
  full = {r: r if len(r) == len(shape) else ((0, 1), *r) for r in wanted}
  found = {
    r: np.empty([stop - start for start, stop in f], dtype)
    for r, f in full.items()
  }

  def fill(layer):
    blocks = {}  # rows of this layer that have been read
    for mine, ((first, last), *inner) in full.items():
      if first <= layer < last:
        source = sources[layer]
        into = found[mine][layer - first]
        _fill(path, source, shape[1:], inner, blocks, into)

  with ThreadPoolExecutor(WORKERS) as pool:
    list(pool.map(fill, range(shape[0])))
  return found


def _fill(path, source, shape, ranges, blocks, into):
  """Copies the part `ranges` of a layer's parameter, cast to its dtype."""
  inputs = inputs_of(path)
  turn = lambda axes: (*axes[inputs:], *axes[:inputs])
  theirs, (rows, *rest) = turn(shape), turn(ranges)
  # Rows of theirs per element of our axis: a head is head_size rows.
  each = math.prod(shape) // theirs[0] // math.prod(source.shape[1:])
  span = (rows[0] * each, rows[1] * each)
  if span not in blocks:
    blocks[span] = tensorfile.rows(source, *span)
  block = blocks[span].reshape(rows[1] - rows[0], *theirs[1:])
  block = block[(slice(None), *(slice(*part) for part in rest))]
  back = len(shape) - inputs
  into[...] = block.transpose(*range(back, len(shape)), *range(back))


def host_slice(leaf: Array, layer: int, dtype: Any) -> np.ndarray:
  """One layer of a stacked parameter on the host, in `dtype`.

  Layer -1 is all of a parameter without layers. All processes must call this.
  """
  if layer >= 0:
    leaf = jax.lax.dynamic_index_in_dim(leaf, np.int32(layer), 0, False)
  leaf = leaf.astype(dtype)
  if jax.process_count() > 1:
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
  return np.asarray(leaf)
