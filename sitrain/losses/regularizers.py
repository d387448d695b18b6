"""Estimates of KL(policy || reference) from sampled tokens.

With d = log pi(y_t) - log ref(y_t) under samples of the policy (Schulman 2020,
"Approximating KL divergence"): k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d.
What each is good for differs between reward and loss: k1 in the reward gives
the unbiased gradient of the reverse KL; k2 as a loss gives the same gradient on
policy; k3 as a loss is a biased first-order approximation; k1 as a loss has a
gradient of zero mean (arXiv 2510.01555), so it is not offered as one. "k3+" has
the value of k3 and the gradient of k2. The exact KL of whole distributions is
models.logprobs.token_scores_and_kl.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sitrain.losses.policy_gradient import LARGEST_GAP, log_ratio


def k1(
  logprob: Float[Array, "*B T"], reference: Float[Array, "*B T"]
) -> Float[Array, "*B T"]:
  """log pi - log ref: unbiased; for rewards."""
  return log_ratio(logprob, reference)


def half_square(gap: Float[Array, "..."]) -> Float[Array, "..."]:
  """gap^2 / 2; inf, without a gradient, where the gap is no finite number.

  The gradient of a square is 0 times the gap outside of a mask, and would be
  NaN where that is infinite.
  """
  finite = jnp.isfinite(gap)
  square = jnp.square(jnp.where(finite, gap, 0.0))
  return jnp.where(finite, 0.5 * square, jnp.inf)


def k2(
  logprob: Float[Array, "*B T"], reference: Float[Array, "*B T"]
) -> Float[Array, "*B T"]:
  """(log pi - log ref)^2 / 2: for losses."""
  return half_square(log_ratio(logprob, reference))


def k3(
  logprob: Float[Array, "*B T"], reference: Float[Array, "*B T"]
) -> Float[Array, "*B T"]:
  """ref / pi - 1 - log(ref / pi): non-negative, for losses and for logs.

  The exponent is limited: exp of 89 nat overflows float32, and its gradient
  would be NaN even under a mask.
  """
  gap = -log_ratio(logprob, reference)
  return jnp.exp(jnp.clip(gap, -LARGEST_GAP, LARGEST_GAP)) - 1.0 - gap


def k3_plus(
  logprob: Float[Array, "*B T"], reference: Float[Array, "*B T"]
) -> Float[Array, "*B T"]:
  """The value of k3 with the gradient of k2: for losses.

  Straight through, as "k3+" of verl: low in variance where it is read, and on
  policy the gradient of the reverse KL.
  """
  square = k2(logprob, reference)
  stop = jax.lax.stop_gradient
  return stop(k3(logprob, reference)) + square - stop(square)


def absolute(
  logprob: Float[Array, "*B T"], reference: Float[Array, "*B T"]
) -> Float[Array, "*B T"]:
  """|log pi - log ref|: what KL-Cov asks of the tokens that it chose.

  Cui et al. 2025 (arXiv:2505.22617), there against the old policy.
  """
  return jnp.abs(log_ratio(logprob, reference))


LOSSES = {"k2": k2, "k3": k3, "k3+": k3_plus, "absolute": absolute}
