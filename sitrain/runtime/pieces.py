"""A rollout in pieces on a mesh, compiled."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from sitrain.models.axes import ROWS
from sitrain.models.parameters import computed
from sitrain.rollout import pieces as rollout
from sitrain.rollout.pieces import Pieces
from sitrain.runtime.sharding import replicated, unchanged


def compiled(model: Any, mesh: Mesh, **options: Any) -> Pieces:
  """The programs of `rollout.pieces.make` on each group of devices."""
  cast = functools.partial(computed, dtype=model.dtype)
  pieces = by_group(rollout.make(model, **options), mesh, prepare=cast)
  prepare = jax.jit(pieces.prepare)
  return Pieces(
    lambda params: params if _is_prepared(model, params) else prepare(params),
    jax.jit(pieces.begin), jax.jit(pieces.go_on, donate_argnums=3),
  )


def _is_prepared(model, params) -> bool:
  """Whether a program would only copy them: devices of a CPU share theirs."""
  shapes = jax.eval_shape(model.for_decoding, params)
  same = jax.tree.structure(shapes) == jax.tree.structure(params)
  return same and all(
    x.dtype == shape.dtype and x.is_fully_replicated
    for x, shape in zip(jax.tree.leaves(params), jax.tree.leaves(shapes))
  )


def by_group(
  pieces: Pieces, mesh: Mesh, *, prepare: Callable[[Any], Any] = unchanged
) -> Pieces:
  """As `sharding.by_group`: every group has a table of its own.

  Problems must divide over the groups. What has been played by now is
  replicated, so that a host can read it; its rows number the problems of their
  group.
  """
  if mesh.size == 1:
    return pieces
  by_row, whole = PartitionSpec(ROWS), PartitionSpec()
  spread = functools.partial(
    jax.shard_map, mesh=mesh, axis_names=set(ROWS), check_vma=False
  )
  # Tables have scalars, too: an axis of groups comes before all others.
  pack = lambda table: jax.tree.map(lambda x: x[None], table)
  given = by_row, whole, by_row, by_row

  def one_group(keys, state, problems, table, steps):
    table = jax.tree.map(lambda x: x[0], table)
    table, now = pieces.go_on(keys, state, problems, table, steps)
    return pack(table), now

  gather = spread(pieces.prepare, in_specs=whole, out_specs=whole)
  begin = lambda *given: pack(pieces.begin(*given))
  go_on = spread(one_group, in_specs=(*given, whole), out_specs=by_row)

  def go_on_for_all(*given):
    table, now = go_on(*given)
    return table, jax.lax.with_sharding_constraint(now, replicated(mesh))

  return Pieces(
    prepare=lambda params: gather(prepare(params)),
    begin=spread(begin, in_specs=given, out_specs=by_row),
    go_on=go_on_for_all,
  )
