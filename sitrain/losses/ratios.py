"""What importance ratios and clips do to an update, as metrics.

All are sums and counts over tokens, so microbatches and devices add up exactly;
a quantile would not.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sitrain.losses.policy_gradient import importance_ratio
from sitrain.losses.reduce import mean
from sitrain.types import GIVEN, Metrics

LOW, HIGH, EXTREME = 0.8, 1.25, 2.0


def ratio_metrics(
  logprob: Float[Array, "*B T"],
  old_logprob: Float[Array, "*B T"],
  mask: Float[Array, "*B T"],
) -> Metrics:
  """Of the ratios r of tokens under the mask:

  learn/ratio          mean of r
  learn/ratio_squared  mean of r^2; (mean r)^2 / mean r^2 is the effective
                       sample size, as a share of the tokens
  learn/ratio_low      share of r < 0.8
  learn/ratio_high     share of r > 1.25
  learn/ratio_extreme  share of r < 1/2 or r > 2
  """
  ratio = importance_ratio(logprob, old_logprob)
  extreme = (ratio > EXTREME) | (ratio < 1 / EXTREME)
  share = lambda x: mean(x.astype(jnp.float32), mask)
  return {
    "learn/ratio": mean(ratio, mask),
    "learn/ratio_squared": mean(ratio**2, mask),
    "learn/ratio_low": share(ratio < LOW),
    "learn/ratio_high": share(ratio > HIGH),
    "learn/ratio_extreme": share(extreme),
  }


def token_metrics(
  objective: Callable[[Float[Array, "*B T"]], Float[Array, "*B T"]],
  logprob: Float[Array, "*B T"],
  advantage: Float[Array, "*B T"],
  mask: Float[Array, "*B T"],
  turn: Int[Array, "*B T"],
) -> Metrics:
  """Which tokens the update learns from:

  learn/trained        share of the tokens of all turns that are under the mask
                       and have an advantage
  learn/clip_fraction  share of those to which `objective(logprob)` [*B T] gives
                       no gradient: whatever clips them
  """
  logprob = jax.lax.stop_gradient(logprob)
  kept = lambda x: jnp.sum(jnp.where(mask > 0, objective(x), 0.0))
  slope = jax.grad(kept)(logprob)
  trained = (mask > 0) & (advantage != 0)
  share = lambda x, of: mean(x.astype(jnp.float32), of.astype(jnp.float32))
  return {
    "learn/trained": share(trained, turn > GIVEN),
    "learn/clip_fraction": share(slope == 0, trained),
  }
