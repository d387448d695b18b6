"""Products of groups of rows, each with a matrix of its own.

TPUs have a kernel for `jax.lax.ragged_dot`. Elsewhere, and for the gradient of
the matrices, XLA would multiply all rows by all matrices; here they go by
blocks of rows, each of which belongs to one group.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

LARGEST = 256  # rows of a block
SMALLEST = 8


@jax.custom_vjp
def product(
  rows: Float[Array, "R I"], matrices: Float[Array, "E I O"],
  sizes: Int[Array, " E"],
) -> Float[Array, "R O"]:
  """Each row times the matrix of its group; the groups have `sizes` rows.

  The groups follow each other, and `sizes` add up to R.
  """
  return jax.lax.platform_dependent(
    rows, matrices, sizes, tpu=jax.lax.ragged_dot, default=by_block
  )


def _forward(rows, matrices, sizes):
  return product(rows, matrices, sizes), (rows, matrices, sizes)


def _backward(kept, gradient):
  rows, matrices, sizes = kept
  by_rows = product(gradient, matrices.swapaxes(1, 2), sizes)
  return by_rows, _by_matrix(rows, gradient, sizes, matrices.dtype), None


product.defvjp(_forward, _backward)


def by_block(
  rows: Float[Array, "R I"], matrices: Float[Array, "E I O"],
  sizes: Int[Array, " E"],
) -> Float[Array, "R O"]:
  """`product`, one block after the other.

  The last block of a group also takes rows after it. What it writes there is
  overwritten by the blocks that follow, or lies beyond the end.
  """
  count, size = rows.shape[0], _block_size(rows, sizes)
  padded = jnp.pad(rows, ((0, size), (0, 0)))

  def step(found, block):
    group, start, _ = block
    x = jax.lax.dynamic_slice_in_dim(padded, start, size)
    y = x @ jax.lax.dynamic_index_in_dim(matrices, group, keepdims=False)
    return jax.lax.dynamic_update_slice_in_dim(found, y, start, 0), ()

  found = jnp.zeros((count + size, matrices.shape[2]), rows.dtype)
  return jax.lax.scan(step, found, _block_places(sizes, count, size))[0][:count]


def _by_matrix(rows, gradient, sizes, dtype):
  """The gradient of the matrices: the sum over the blocks of each group."""
  count, size = rows.shape[0], _block_size(rows, sizes)
  rows, gradient = (
    jnp.pad(x, ((0, size), (0, 0))) for x in (rows, gradient)
  )

  def step(total, block):
    group, start, end = block
    x, g = (
      jax.lax.dynamic_slice_in_dim(y, start, size) for y in (rows, gradient)
    )
    own = (start + jnp.arange(size) < end)[:, None]
    product = jnp.einsum(
      "ri,ro->io", jnp.where(own, x, 0), g, preferred_element_type=jnp.float32
    )
    return total.at[group].add(product), ()

  total = (sizes.shape[0], rows.shape[1], gradient.shape[1])
  total = jnp.zeros(total, jnp.float32)
  places = _block_places(sizes, count, size)
  return jax.lax.scan(step, total, places)[0].astype(dtype)


def _block_size(rows, sizes):
  return max(SMALLEST, min(LARGEST, rows.shape[0] // sizes.shape[0]))


def _block_places(sizes, count, size):
  """(group, first row, end of the group) of the blocks of all groups.

  As many as there can be; those that are left over begin at row `count`.
  """
  groups = sizes.shape[0]
  block = jnp.arange(count // size + min(groups, count), dtype=jnp.int32)
  each, ends = -(-sizes // size), jnp.cumsum(sizes)
  last = jnp.cumsum(each)
  group = jnp.sum(block[:, None] >= last, axis=1, dtype=jnp.int32)
  group = jnp.minimum(group, groups - 1)
  start = (ends - sizes)[group] + (block - (last - each)[group]) * size
  return group, jnp.where(block < last[-1], start, count), ends[group]
