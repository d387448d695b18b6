"""The pure functions that a decoder layer is made of."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sitrain.models import products

MASKED = -1e30  # finite, so that a query that sees nothing stays finite


class RopeScaling(NamedTuple):
  """How rotary frequencies are stretched; the defaults change nothing.

  `low`, `high` and `length` are read by "llama3" only.
  """

  kind: str = "linear"  # or "llama3"
  factor: float = 1.0
  low: float = 1.0
  high: float = 4.0
  length: int = 8192


def rms_norm(
  x: Float[Array, "... D"],
  weight: Float[Array, " D"],
  *,
  eps: float,
  plus_one: bool,
) -> Float[Array, "... D"]:
  """Root mean square norm in float32, returned in the dtype of `x`.

  x / sqrt(mean(x^2) + eps) * w, with 1 + w in place of w if `plus_one`
  (Zhang and Sennrich 2019, eq. 4).
  """
  y = x.astype(jnp.float32)
  y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + eps)
  w = weight.astype(jnp.float32)
  return (y * (1 + w if plus_one else w)).astype(x.dtype)


def rope_frequencies(
  head_size: int, base: float, scaling: RopeScaling
) -> Float[Array, " H"]:
  """Angular frequency of every pair of a head, [head_size / 2].

  Plain: base ** (-2 i / head_size). "linear" divides by the factor. "llama3"
  divides long waves by it, keeps short ones and blends between (Llama 3.1).
  Raises ValueError for another kind.
  """
  pairs = jnp.arange(0, head_size, 2, dtype=jnp.float32)
  frequency = 1.0 / base ** (pairs / head_size)
  if scaling.kind == "linear":
    return frequency / scaling.factor
  if scaling.kind != "llama3":
    raise ValueError(f"rope scaling {scaling.kind!r}: not linear or llama3")
  turns = scaling.length * frequency / (2 * math.pi)
  keep = jnp.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
  return frequency * (keep + (1 - keep) / scaling.factor)


def rotary_size(head_size: int, share: float) -> int:
  """How many elements of a head are rotated: its first ones, an even number.

  Raises ValueError for a share that gives no even number above 0.
  """
  size = int(head_size * share)
  if size % 2 or not 0 < size <= head_size:
    raise ValueError(
      f"rope_share={share} of a head of {head_size} rotates {size} elements:"
      " choose a share of 1 or less that gives an even number"
    )
  return size


def rope_table(
  position: Int[Array, "B Q"],
  size: int,
  base: float,
  scaling: RopeScaling,
) -> tuple[Float[Array, "B Q 1 H"], Float[Array, "B Q 1 H"]]:
  """Cosine and sine of every position, to be shared by the layers.

  `size` is that of a head, or of the part of it that is rotated. The barrier
  keeps XLA from recomputing them in every layer.
  """
  frequency = rope_frequencies(size, base, scaling)
  angle = (position[..., None].astype(jnp.float32) * frequency)[:, :, None]
  return jax.lax.optimization_barrier((jnp.cos(angle), jnp.sin(angle)))


def rotate(
  x: Float[Array, "B Q N D"],
  cos: Float[Array, "B Q 1 H"],
  sin: Float[Array, "B Q 1 H"],
) -> Float[Array, "B Q N D"]:
  """Rotary positions; the pairs are (x_i, x_{i + H}).

  Su et al. 2021 (RoFormer), eq. 34, with the two halves as coordinates. Of a
  head with D > 2 H the rest stays as it is.
  """
  half = cos.shape[-1]
  a, b, rest = jnp.split(x.astype(jnp.float32), [half, 2 * half], axis=-1)
  turned = [a * cos - b * sin, b * cos + a * sin, rest]
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def soft_cap(x: Float[Array, "..."], cap: float) -> Float[Array, "..."]:
  """cap * tanh(x / cap); a cap of 0 caps nothing (Gemma 2, section 2)."""
  return cap * jnp.tanh(x / cap) if cap else x


def project(
  x: Float[Array, "R I"], params: dict[str, Array], name: str, *,
  wide: bool = False,
) -> Float[Array, "R O"]:
  """x @ W of the projection `name`, with its low-rank adapter if it has one.

  x W + (x A) B (Hu et al. 2021, eq. 3); inputs and outputs that are several
  axes, such as heads, are flattened. `wide` products are those of products.py.
  """

  def times(x, weight):
    weight = weight.reshape(x.shape[1], -1)
    if not wide:
      return x @ weight
    return products.kept(products.wide(x, weight, False).astype(x.dtype))

  y = times(x, params[name])
  if f"{name}_a" not in params:
    return y
  low = times(x, params[f"{name}_a"])
  return y + times(low, params[f"{name}_b"])


def activation_of(name: str) -> Callable[[Array], Array]:
  """The activation of an mlp; ValueError for one that is not there."""
  if name not in ("silu", "gelu_tanh"):
    raise ValueError(f"activation {name!r}: not silu or gelu_tanh")
  return jax.nn.silu if name == "silu" else jax.nn.gelu


def gated_mlp(
  x: Float[Array, "R D"], params: dict[str, Array], *, activation: str,
  wide: bool = False,
) -> Float[Array, "R D"]:
  """down(act(gate x) * up x) (Shazeer 2020, eq. 6, SwiGLU and GEGLU).

  Raises ValueError for an activation other than silu or gelu_tanh.
  """
  act = activation_of(activation)
  times = functools.partial(project, params=params, wide=wide)
  gate, up = times(x, name="gate"), times(x, name="up")
  return times(act(gate) * up, name="down")


def remat(fn: Callable, policy: str, *, scanned: bool) -> Callable:
  """`fn` with what its backward pass recomputes: none, full, dots or auto.

  "dots" keeps the products with weights and recomputes the rest. "auto" is
  "full" where nobody has settled it (runtime/machine.py). Raises ValueError for
  another policy.
  """
  if policy == "none":
    return fn
  policies = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "auto": jax.checkpoint_policies.nothing_saveable,
    "dots": products.POLICY,
  }
  if policy not in policies:
    raise ValueError(f"remat {policy!r}: not none, full, dots or auto")
  # A scan already keeps XLA from merging the two passes.
  return jax.checkpoint(fn, policy=policies[policy], prevent_cse=not scanned)
