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
  """`count` of N candidates, whose levels are drawn with weights `chance`.

  Candidates of a level are taken in their order, and again from the first one
  where there are too few. Levels without candidates are never drawn.
  """
  each = jnp.bincount(level, length=chance.shape[0])
  weight = jnp.where(each > 0, jnp.log(chance), -jnp.inf)
  drawn = jax.random.categorical(key, weight, shape=(count,))
  # How many draws of its level came before each one.
  same = jnp.tril(drawn[:, None] == drawn, -1)
  nth = jnp.sum(same, axis=1) % each[drawn]
  order = jnp.argsort(level, stable=True)
  return order[(jnp.cumsum(each) - each)[drawn] + nth]


def update_arms(
  value: Float[Array, " L"],
  level: Int[Array, " B"],
  reward: Float[Array, " B"],
  known: Float[Array, " B"],
  *,
  rate: float,
) -> Float[Array, " L"]:
  """Q <- (1 - rate) Q + rate * mean reward of the known rows of a level.

  Chen et al. 2025 (SEC). Levels without a known row keep their value.
  """
  total = lambda x: jax.ops.segment_sum(x, level, value.shape[0])
  count = total((known > 0).astype(jnp.float32))
  mean = total(jnp.where(known > 0, reward, 0.0)) / jnp.maximum(count, 1)
  return jnp.where(count > 0, (1 - rate) * value + rate * mean, value)
