"""Policy-gradient losses on plain arrays."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def policy_gradient(
  logprob: Float[Array, "*B T"],
  sampler_logprob: Float[Array, "*B T"],
  advantage: Float[Array, "*B T"],
  *,
  clip: float,
) -> Float[Array, "*B T"]:
  """REINFORCE with importance ratios, clipped as in PPO.

  loss_t = -min(r_t A_t, clip(r_t, 1 - clip, 1 + clip) A_t) with
  r_t = exp(log pi(y_t) - log mu(y_t)), mu the sampler (Schulman et al. 2017,
  Eq. 7). With clip = inf it is -r_t A_t, whose gradient on the sampler's own
  parameters is REINFORCE's, -A_t grad log pi(y_t). No whitening of advantages:
  dividing by their deviation would remove the weight that a method gave a turn.
  """
  advantage = jax.lax.stop_gradient(advantage)
  ratio = jnp.exp(logprob - jax.lax.stop_gradient(sampler_logprob))
  clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
  return -jnp.minimum(ratio * advantage, clipped * advantage)
