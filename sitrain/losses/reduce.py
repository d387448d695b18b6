"""The one reducer: every loss is summed here and divided in one place.

What stands under a mask may be infinite or NaN, so masking is a choice and
never a product.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sitrain.types import Mean


def at_least_float32(x: Array) -> Float[Array, "..."]:
  """x in float32, or as it is where that is wider.

  Sums of bfloat16 have eight bits: 512 tokens and one more are 512.
  """
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def masked(
  x: Float[Array, "..."], mask: Float[Array, "..."]
) -> Float[Array, "..."]:
  """x where the mask is above 0, times the mask; 0 elsewhere."""
  return jnp.where(mask > 0, at_least_float32(x), 0.0) * mask


def mean(x: Float[Array, "..."], mask: Float[Array, "..."]) -> Mean:
  """Sum and count of x where mask is 1; shapes are equal."""
  return Mean(jnp.sum(masked(x, mask)), jnp.sum(at_least_float32(mask)))


def per_episode(x: Float[Array, "*B T"], mask: Float[Array, "*B T"]) -> Mean:
  """Token sums, averaged over the rows that have any token under the mask.

  Sequence sums and not token means: a mean over tokens would scale a penalty
  down by the length of the answer (Kumar et al. 2024, Eq. 2-4 are sums).
  """
  rows = jnp.any(mask > 0, axis=-1)
  return Mean(jnp.sum(masked(x, mask)), jnp.sum(rows.astype(jnp.float32)))


def per_episode_mean(
  x: Float[Array, "*B T"], mask: Float[Array, "*B T"]
) -> Mean:
  """Token means, averaged over the rows that have any token under the mask.

  Every row counts alike, so a token of a long one counts less: the original
  GRPO (Shao et al. 2024, Eq. 3).
  """
  length = jnp.sum(at_least_float32(mask), axis=-1, keepdims=True)
  return per_episode(x / jnp.where(length > 0, length, 1.0), mask)


def per_length(
  x: Float[Array, "*B T"], mask: Float[Array, "*B T"], length: int
) -> Mean:
  """Token sums over one constant, averaged as in `per_episode`.

  Liu et al. 2025 (Dr. GRPO): no token counts less in a longer row, and losses
  keep the size of token means. `length` must stay the same over a run.
  """
  found = per_episode(x, mask)
  return found._replace(count=found.count * length)


AGGREGATES = {
  "token_mean": mean,  # DAPO: every token of the batch counts alike
  "episode_sum": per_episode,
  "episode_mean": per_episode_mean,
  "constant_length": per_length,
}


def aggregate_of(name: str, length: int) -> Callable:
  """The reducer (x, mask) -> Mean of that name; `length` for a constant one.

  Raises KeyError for a name that is not in AGGREGATES.
  """
  if name == "constant_length":
    return functools.partial(AGGREGATES[name], length=length)
  return AGGREGATES[name]


def per_turn(
  name: str,
  x: Float[Array, "*B T"],
  mask: Float[Array, "*B T"],
  turn: Array,
  turns: int,
  aggregate: Callable = per_episode,
) -> dict[str, Mean]:
  """`aggregate` of every turn by itself: {name_1: ..., name_2: ...}.

  Rows in which a turn is not trained do not count in that turn's mean, so
  rows with a given first attempt leave the weight of the others alone.
  """
  return {
    f"{name}_{k}": aggregate(x, mask * (turn == k))
    for k in range(1, turns + 1)
  }


def per_attempt(
  x: Float[Array, "*B T"], mask: Float[Array, "*B T"], turn: Array, turns: int
) -> Mean:
  """Token means of the turns of all rows, averaged: each is one item.

  Turns without a token under the mask are none.
  """
  each = per_turn("x", x, mask, turn, turns, per_episode_mean).values()
  return jax.tree.map(lambda *parts: sum(parts), *each)


def value(x: Mean) -> Float[Array, "..."]:
  """total / count, and 0 where nothing was counted."""
  counted = x.count > 0
  return jnp.where(counted, x.total / jnp.where(counted, x.count, 1.0), 0.0)
