"""Rows of one problem, paired."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key


def partners(
  key: Key[Array, ""],
  wanted: Bool[Array, " B"],
  group: Int[Array, " B"],
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
  """For each row a random other row of its group among the `wanted`.

  Returns the partner's row number [B], and whether there is one [B]. Each
  eligible partner is equally likely (the largest of independent uniforms).
  """
  rows = wanted.shape[0]
  eligible = (group[:, None] == group[None, :]) & wanted[None, :]
  eligible &= ~jnp.eye(rows, dtype=bool)
  noise = jax.random.uniform(key, (rows, rows))
  choice = jnp.argmax(jnp.where(eligible, noise, -1.0), axis=1)
  return choice, jnp.any(eligible, axis=1)
