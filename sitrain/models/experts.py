"""A mixture of experts: every token takes a few of a layer's mlps.

Shazeer et al. 2017, section 2, without noise: y = sum_e p_e(x) mlp_e(x) over
the experts with the largest p = softmax(x router). No expert has a capacity, so
no token is dropped, and what a token gets depends on no other token. The load
of the experts is not balanced: there is no auxiliary loss.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from sitrain.models import axes, blocks, grouped


def mixture(
  x: Float[Array, "R D"], params: dict[str, Array], *, per_token: int,
  activation: str, sum_to_one: bool,
) -> Float[Array, "R D"]:
  """What the experts of each row make of it, weighted by the router.

  `params` has router [D E], experts_gate and experts_up [E D F], experts_down
  [E F D]. `sum_to_one` divides the weights of a row's experts by their sum. On
  a mesh every group of devices sorts its own rows, gathers the weights over
  `fsdp`, and adds up its shares of F over `tensor`; where rows or sizes do not
  divide by the mesh, the compiler decides.
  """
  weights = [
    params[name] for name in
    ("router", "experts_gate", "experts_up", "experts_down")
  ]
  options = dict(
    per_token=per_token, activation=blocks.activation_of(activation),
    sum_to_one=sum_to_one,
  )
  if not _divides(x, weights[1]):
    return _mixture(x, *weights, **options)
  free = axes.free()
  of = lambda *names: PartitionSpec(*(n if n in free else None for n in names))
  rows = PartitionSpec(tuple(n for n in axes.ROWS if n in free))
  matrix = of(None, "fsdp", "tensor")
  return jax.shard_map(
    functools.partial(_own_rows, free=free, **options),
    in_specs=(
      rows, of("fsdp", None), matrix, matrix, of(None, "tensor", "fsdp")
    ),
    out_specs=rows, axis_names=set(free), check_vma=False,
  )(x, *weights)


def _divides(x, gate):
  """Whether there is a mesh, and rows and matrices divide by its axes."""
  groups = axes.over(axes.ROWS)
  fsdp, tensor = axes.over(("fsdp",)), axes.over(("tensor",))
  fits = not (x.shape[0] % groups or gate.shape[1] % fsdp)
  return groups * tensor > 1 and fits and gate.shape[2] % tensor == 0


def _own_rows(x, router, gate, up, down, *, free, **options):
  """`_mixture` of one group of devices; its gradient scatters the sums."""
  if "fsdp" in free:
    whole = functools.partial(jax.lax.all_gather, axis_name="fsdp", tiled=True)
    router, gate, up = whole(router), whole(gate, axis=1), whole(up, axis=1)
    down = whole(down, axis=2)
  y = _mixture(x, router, gate, up, down, **options)
  return jax.lax.psum(y, "tensor") if "tensor" in free else y


def _mixture(x, router, gate, up, down, *, per_token, activation, sum_to_one):
  """On one device: rows sorted by expert, multiplied, and put back."""
  logits = jnp.dot(x, router, preferred_element_type=jnp.float32)
  weight, chosen = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), per_token)
  if sum_to_one:
    weight /= jnp.sum(weight, axis=-1, keepdims=True)
  expert = chosen.reshape(-1)
  order = jnp.argsort(expert, stable=True)
  sizes = jnp.bincount(expert, length=router.shape[1]).astype(jnp.int32)
  times = functools.partial(grouped.product, sizes=sizes)
  rows = x[order // per_token]
  y = times(activation(times(rows, gate)) * times(rows, up), down)
  y = y[jnp.argsort(order)].reshape(-1, per_token, x.shape[1])
  y = jnp.sum(y.astype(jnp.float32) * weight[..., None], axis=1)
  return y.astype(x.dtype)
