"""The one reducer: every loss is summed here and divided in one place.

What stands under a mask may be infinite or NaN, so masking is a choice and
never a product.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from sitrain.types import Mean


def masked(
  x: Float[Array, "..."], mask: Float[Array, "..."]
) -> Float[Array, "..."]:
  """x where the mask is above 0, times the mask; 0 elsewhere."""
  return jnp.where(mask > 0, x, 0.0) * mask


def mean(x: Float[Array, "..."], mask: Float[Array, "..."]) -> Mean:
  """Sum and count of x where mask is 1; shapes are equal."""
  return Mean(jnp.sum(masked(x, mask)), jnp.sum(mask))


def per_episode(x: Float[Array, "*B T"], mask: Float[Array, "*B T"]) -> Mean:
  """Token sums, averaged over the rows that have any token under the mask.

  Sequence sums and not token means: a mean over tokens would scale a penalty
  down by the length of the answer (Kumar et al. 2024, Eq. 2-4 are sums).
  """
  rows = jnp.any(mask > 0, axis=-1)
  return Mean(jnp.sum(masked(x, mask)), jnp.sum(rows.astype(jnp.float32)))


def per_turn(
  name: str,
  x: Float[Array, "*B T"],
  mask: Float[Array, "*B T"],
  turn: Array,
  turns: int,
) -> dict[str, Mean]:
  """`per_episode` of every turn by itself: {name_1: ..., name_2: ...}.

  Rows in which a turn is not trained do not count in that turn's mean, so
  rows with a given first attempt leave the weight of the others alone.
  """
  return {
    f"{name}_{k}": per_episode(x, mask * (turn == k))
    for k in range(1, turns + 1)
  }


def value(x: Mean) -> Float[Array, "..."]:
  """total / count, and 0 where nothing was counted."""
  counted = x.count > 0
  return jnp.where(counted, x.total / jnp.where(counted, x.count, 1.0), 0.0)
