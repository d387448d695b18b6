"""Losses of value functions, on plain arrays."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sitrain.losses.regularizers import half_square


def value_error(
  value: Float[Array, "*B T"],
  returns: Float[Array, "*B T"],
  old_value: Float[Array, "*B T"],
  *,
  clip: float,
) -> Float[Array, "*B T"]:
  """max((V - R)^2, (clip(V, V_old +- clip) - R)^2) / 2.

  The clipped value loss of PPO's implementations (Huang et al. 2022, "The 37
  Implementation Details of PPO", 9); clip = inf: half the squared error.
  """
  returns, old_value = map(jax.lax.stop_gradient, (returns, old_value))
  near = old_value + jnp.clip(value - old_value, -clip, clip)
  return jnp.maximum(half_square(value - returns), half_square(near - returns))
