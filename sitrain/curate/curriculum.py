"""Which problems are posed next: bandits over the levels of a task."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def choose(
  key: Key[Array, ""],
  level: Int[Array, " N"],
  chance: Float[Array, " L"],
  count: int,
) -> Int[Array, " count"]:
  """`count` different candidates, by level with probabilities `chance`.

  Gumbel top-k: candidate i is drawn without replacement with a weight of
  chance[level_i] over the number of candidates of that level, so a level gets
  its share as long as it has candidates enough.
  """
  levels = chance.shape[0]
  each = jnp.bincount(level, length=levels)[level]
  weight = jnp.log(chance[level]) - jnp.log(each)
  noise = jax.random.gumbel(key, level.shape)
  return jax.lax.top_k(weight + noise, count)[1]


def update_arms(
  value: Float[Array, " L"],
  level: Int[Array, " P"],
  reward: Float[Array, " P"],
  *,
  rate: float,
) -> Float[Array, " L"]:
  """Q <- (1 - rate) Q + rate * mean reward, of the levels that were posed.

  Chen et al. 2025 (SEC). Levels that were not posed keep their value.
  """
  arms = value.shape[0]
  count = jnp.bincount(level, length=arms)
  total = jax.ops.segment_sum(reward, level, arms)
  mean = total / jnp.maximum(count, 1)
  return jnp.where(count > 0, (1 - rate) * value + rate * mean, value)
