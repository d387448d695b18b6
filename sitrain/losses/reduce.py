"""The one reducer: every loss is summed here and divided in one place."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from sitrain.types import Mean


def mean(x: Float[Array, "..."], mask: Float[Array, "..."]) -> Mean:
  """Sum and count of x where mask is 1; shapes are equal."""
  return Mean(jnp.sum(x * mask), jnp.sum(mask))


def per_episode(x: Float[Array, "*B T"], mask: Float[Array, "*B T"]) -> Mean:
  """Token sums, averaged over the rows that have any token under the mask.

  Sequence sums and not token means: a mean over tokens would scale a penalty
  down by the length of the answer (Kumar et al. 2024, Eq. 2-4 are sums).
  """
  rows = jnp.any(mask > 0, axis=-1)
  return Mean(jnp.sum(x * mask), jnp.sum(rows.astype(jnp.float32)))


def value(x: Mean) -> Float[Array, "..."]:
  """total / count, and 0 where nothing was counted."""
  counted = x.count > 0
  return jnp.where(counted, x.total / jnp.where(counted, x.count, 1.0), 0.0)
