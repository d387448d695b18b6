"""How arrays of a model lie on the axes of the mesh, where there is a mesh.

The partition rules of parameters are in parameters.py; this file lays out the
activations. It leaves alone the axes that an enclosing shard_map has made
manual, and arrays that do not divide by the size of an axis.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float, Int

ROWS = ("data", "fsdp")  # the axes that rows are split over


def free() -> dict[str, int]:
  """Sizes of the axes that the compiler splits; empty without a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  types = zip(mesh.axis_names, mesh.axis_types)
  return {name: mesh.shape[name] for name, t in types if t == AxisType.Auto}


def over(axes: tuple[str, ...]) -> int:
  """The number of parts that the free ones of `axes` split an array into."""
  sizes = free()
  return math.prod(sizes.get(axis, 1) for axis in axes)


def look_up(
  table: Float[Array, "V D"], tokens: Int[Array, "B Q"], dtype: Any
) -> Float[Array, "B Q D"]:
  """Rows of a table whose columns are split over `fsdp`, as `tokens` are.

  Every device reads its columns for the tokens of all of `fsdp`, and then they
  exchange them, in `dtype`; the gradient goes the same way back. The compiler
  by itself would gather all columns of all rows on every device in between.
  """
  columns, groups = over(("fsdp",)), over(ROWS)
  if columns == 1 or tokens.shape[0] % groups or table.shape[1] % columns:
    return table[tokens].astype(dtype)
  tokens = _constrain(tokens, "data")
  found = _constrain(table[tokens].astype(dtype), "data", None, "fsdp")
  return _constrain(found, ROWS)


def by_rows(
  fn: Callable, tables: Any, dtype: Any, *rows: Array
) -> Any:
  """fn(tables, *rows) on each group of devices, for its rows.

  A loop inside of `fn` then needs no collective over `data` or `fsdp`: tables
  [V D], split over `tensor` and `fsdp`, are gathered before it, in `dtype`, and
  their gradients are added up and scattered after it. Inside of `fn` `tensor`
  is left to the compiler.
  """
  groups, parts = over(ROWS), (over(("tensor",)), over(("fsdp",)))
  shapes = [x.shape for x in jax.tree.leaves(tables)]
  uneven = any(n % part for shape in shapes for n, part in zip(shape, parts))
  if groups == 1 or uneven or rows[0].shape[0] % groups:
    return fn(tables, *rows)
  dtypes = jax.tree.map(lambda x: x.dtype, tables)

  def one_group(own, *rows):
    # Chunks of the gradient add up in the dtype that they would have alone.
    return fn(jax.tree.map(lambda x, t: x[0].astype(t), own, dtypes), *rows)

  lead = PartitionSpec(ROWS)
  # The barrier separates the scatter of the gradients from their sum over
  # microbatches. Without it TPU's compiler fails when it moves the scatter out
  # of that loop, where embeddings and head are two tables.
  isolate = lambda x: jax.lax.optimization_barrier(x.astype(dtype))
  own = jax.tree.map(lambda x: _for_each_group(isolate(x)), tables)
  return jax.shard_map(
    one_group, in_specs=lead, out_specs=lead, axis_names=set(ROWS),
    check_vma=False,
  )(own, *rows)


def _for_each_group(table):
  """[V D] -> [groups V D]: every group of devices gets one, with all columns.

  The gradient of an all-gather is a reduce-scatter, whatever the compiler.
  """
  parts = over(("fsdp",))

  def gather(x):
    if parts > 1:  # XLA on CPU copies for a gather from one.
      x = jax.lax.all_gather(x, "fsdp", axis=1, tiled=True)
    return x[None]

  return jax.shard_map(
    gather, in_specs=PartitionSpec("tensor", "fsdp"),
    out_specs=PartitionSpec(ROWS, "tensor", None), check_vma=False,
  )(table)


def between_layers(x: Float[Array, "R D"], kind: str) -> Float[Array, "R D"]:
  """The residual stream as it is kept from layer to layer.

  "split": every device of `tensor` holds its share of the tokens, and computes
  the norms of these; a layer gathers them, and scatters its sums (Korthikanti
  et al. 2022, section 4.2.2). "whole" leaves it to the compiler. Raises
  ValueError for another kind.
  """
  if kind not in ("whole", "split"):
    raise ValueError(f"config.model.residual={kind!r}: not whole or split")
  alone = over(("tensor",)) == 1 or x.shape[0] % over((*ROWS, "tensor"))
  return x if kind == "whole" or alone else _constrain(x, (*ROWS, "tensor"))


def short_of(columns: int, kind: str) -> int:
  """Columns that a row lacks for `between_layers` to split it."""
  return -columns % over(("tensor",)) if kind == "split" else 0


def _constrain(x, *axes):
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))
