"""Products of rows and weights in bfloat16, as CPUs are fast at them.

XLA on CPU converts both sides to float32 where a product gives bfloat16. One
that gives float32 uses the instructions for bfloat16 where the CPU has them,
at twice the rate of float32, but only where the first side is contracted over
its last axis in memory. One row alone takes a slow path, two do not.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from sitrain.models import axes

NAME = "product"
# Of jax.checkpoint, which sees no product where a gradient is given by hand.
POLICY = jax.checkpoint_policies.save_from_both_policies(
  jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  jax.checkpoint_policies.save_only_these_names(NAME),
)


def kept(y: Float[Array, "*B"]) -> Float[Array, "*B"]:
  """The same, which POLICY keeps for the gradient.

  It is kept as bits: XLA on CPU would convert what all layers keep in bfloat16
  to float32 before it reads any of it.
  """
  bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(y), jnp.uint16)
  return _restored(y, checkpoint_name(bits, NAME))


@jax.custom_jvp
def _restored(y, bits):
  return jax.lax.bitcast_convert_type(bits, y.dtype)


@_restored.defjvp
def _restored_jvp(given, tangents):
  y, bits = given
  return jax.lax.bitcast_convert_type(bits, y.dtype), tangents[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def wide(
  x: Float[Array, "R I"], weight: Float[Array, "_ _"], transposed: bool
) -> Float[Array, "R O"]:
  """x W in float32, of a weight [I O], or [O I] if `transposed`.

  The gradient rounds what comes back to the dtype of `x` first, as if the
  product had given that.
  """
  one = x.shape[0] == 1
  rows = jnp.concatenate([x, x]) if one else x
  y = _dot(rows, weight, 1 if transposed else 0)
  return y[:1] if one else y


def _forward(x, weight, transposed):
  return wide(x, weight, transposed), (x, weight)


def _backward(transposed, saved, gradient):
  x, weight = saved
  gradient = gradient.astype(x.dtype)
  by_rows = wide(gradient, weight, not transposed)
  left, right = (gradient, x) if transposed else (x, gradient)
  by_weight = _dot(_in_memory(left.T), right, 0)
  return by_rows.astype(x.dtype), by_weight.astype(weight.dtype)


wide.defvjp(_forward, _backward)


def _dot(x, weight, axis):
  return jax.lax.dot_general(
    x, weight, (((1,), (axis,)), ((), ())),
    preferred_element_type=jnp.float32,
  )


def _in_memory(x):
  """A transposed matrix as a copy, which XLA would else leave as it is.

  Each group of devices copies its rows: for the constraint on a layout XLA
  would gather those of all.
  """
  copied = lambda x: with_layout_constraint(x, Layout((0, 1)))
  groups = axes.over(axes.ROWS)
  if groups == 1 or x.shape[1] % groups:
    return copied(x)
  lie = PartitionSpec(None, axes.ROWS)
  return jax.shard_map(
    copied, in_specs=lie, out_specs=lie, axis_names=set(axes.ROWS),
    check_vma=False,
  )(x)
