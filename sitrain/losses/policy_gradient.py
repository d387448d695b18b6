"""Policy-gradient losses on plain arrays."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LARGEST_GAP = 30.0  # nat; exp of it and its gradient are finite in float32


def importance_ratio(
  logprob: Float[Array, "*B T"], old_logprob: Float[Array, "*B T"]
) -> Float[Array, "*B T"]:
  """exp(log pi - log mu), with the gap limited to +-LARGEST_GAP.

  Beyond it the ratio overflows, and one such token, masked or not, would make
  every gradient NaN. No gradient reaches `old_logprob`.
  """
  gap = logprob - jax.lax.stop_gradient(old_logprob)
  return jnp.exp(jnp.clip(gap, -LARGEST_GAP, LARGEST_GAP))


def truncate(
  ratio: Float[Array, "*B T"], most: float
) -> Float[Array, "*B T"]:
  """min(ratio, most) whose gradient is min(ratio, most) grad log pi.

  Truncated importance sampling (Ionides 2008): the weight of a token is
  bounded, and unlike a clipped ratio it still has a gradient.
  """
  return ratio * jax.lax.stop_gradient(jnp.minimum(1.0, most / ratio))


def policy_gradient(
  logprob: Float[Array, "*B T"],
  old_logprob: Float[Array, "*B T"],
  advantage: Float[Array, "*B T"],
  *,
  clip: float,
  clip_high: float,
  most: float,
) -> Float[Array, "*B T"]:
  """REINFORCE with importance ratios, clipped as in PPO.

  loss_t = -min(r_t A_t, clip(r_t, 1 - clip, 1 + clip_high) A_t) with
  r_t = exp(log pi(y_t) - log mu(y_t)), mu the policy that sampled (Schulman et
  al. 2017, Eq. 7; two sides: Yu et al. 2025, DAPO, Eq. 10). With both inf it is
  -r_t A_t, whose gradient on the sampler's own parameters is REINFORCE's,
  -A_t grad log pi(y_t). Ratios are truncated to `most` first. Advantages are
  not whitened here: dividing by their deviation would remove the weight that a
  method gave a turn.
  """
  advantage = jax.lax.stop_gradient(advantage)
  ratio = truncate(importance_ratio(logprob, old_logprob), most)
  clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip_high)
  return -jnp.minimum(ratio * advantage, clipped * advantage)
