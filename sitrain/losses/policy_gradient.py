"""Policy-gradient losses on plain arrays.

A loss is a ratio and a surrogate of it: `importance_ratio` or `sequence_ratio`,
then `clipped`, `soft_gate` or `cispo`, and `dual_clip` behind it where wanted.
Advantages are as `curate.advantage` makes them; no gradient reaches them, nor
the old log-probabilities.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sitrain.losses.reduce import at_least_float32

LARGEST_GAP = 30.0  # nat; exp of it and its gradient are finite in float32


def log_ratio(
  logprob: Float[Array, "*B T"], other: Float[Array, "*B T"]
) -> Float[Array, "*B T"]:
  """log pi - log mu in float32; NaN, without a gradient, where both are -inf.

  Tokens that neither can write, such as padding, are so, and what is computed
  from NaN has a gradient that is NaN even outside of a mask.
  """
  gap = at_least_float32(logprob) - at_least_float32(other)
  return jnp.where(jnp.isnan(gap), jnp.nan, gap)


def importance_ratio(
  logprob: Float[Array, "*B T"], old_logprob: Float[Array, "*B T"]
) -> Float[Array, "*B T"]:
  """exp(log pi - log mu), with the gap limited to +-LARGEST_GAP.

  Beyond it the ratio overflows, and one such token, masked or not, would make
  every gradient NaN. No gradient reaches `old_logprob`.
  """
  gap = log_ratio(logprob, jax.lax.stop_gradient(old_logprob))
  return jnp.exp(jnp.clip(gap, -LARGEST_GAP, LARGEST_GAP))


def truncate(
  ratio: Float[Array, "*B T"], most: float
) -> Float[Array, "*B T"]:
  """min(ratio, most) whose gradient is min(ratio, most) grad log pi.

  Truncated importance sampling (Ionides 2008): the weight of a token is
  bounded, and unlike a clipped ratio it still has a gradient.
  """
  return ratio * jax.lax.stop_gradient(jnp.minimum(1.0, most / ratio))


def sequence_ratio(
  logprob: Float[Array, "*B T"],
  old_logprob: Float[Array, "*B T"],
  mask: Float[Array, "*B T"],
) -> Float[Array, "*B T"]:
  """The ratio of a whole sequence, the same at each of its tokens.

  s = exp(mean over t of log pi(y_t) - log mu(y_t)), with the mean over the
  tokens under the mask (arXiv:2507.18071, 2025, GSPO). The gradient at token t
  is s grad log pi(y_t), as in the paper's variant by tokens, sg(s) pi(y_t) /
  sg(pi(y_t)): the mean of the tokens' gradients is that of s. The gap is
  limited as in `importance_ratio`.
  """
  own = jnp.where(mask > 0, at_least_float32(logprob), 0.0)
  gap = jnp.where(mask > 0, log_ratio(own, old_logprob), 0.0)
  length = jnp.sum(mask > 0, axis=-1, keepdims=True)
  gap = jnp.sum(gap, axis=-1, keepdims=True) / jnp.maximum(length, 1)
  ratio = jnp.exp(jnp.clip(gap, -LARGEST_GAP, LARGEST_GAP))
  stop = jax.lax.stop_gradient
  return stop(ratio) * jnp.exp(own - stop(own))


def clipped(
  ratio: Float[Array, "*B T"],
  advantage: Float[Array, "*B T"],
  *,
  clip: float,
  clip_high: float,
) -> Float[Array, "*B T"]:
  """-min(r_t A_t, clip(r_t, 1 - clip, 1 + clip_high) A_t).

  Schulman et al. 2017 (PPO), Eq. 7; two sides: Yu et al. 2025 (DAPO), Eq. 10.
  There is no gradient where the ratio has already gone the way of the advantage
  by more than that; with both inf it is -r_t A_t.
  """
  advantage = jax.lax.stop_gradient(advantage)
  bounded = jnp.clip(ratio, 1.0 - clip, 1.0 + clip_high)
  return -jnp.minimum(ratio * advantage, bounded * advantage)


def dual_clip(
  loss: Float[Array, "*B T"], advantage: Float[Array, "*B T"], most: float
) -> Float[Array, "*B T"]:
  """min(loss_t, -most A_t) where A_t < 0, and the loss elsewhere.

  Ye et al. 2020 (arXiv:1912.09729): what a ratio that has grown far adds to the
  loss is bounded. `most` is above 1; 3 is usual.
  """
  bound = -most * jax.lax.stop_gradient(advantage)
  return jnp.where(advantage < 0, jnp.minimum(loss, bound), loss)


def cispo(
  logprob: Float[Array, "*B T"],
  old_logprob: Float[Array, "*B T"],
  advantage: Float[Array, "*B T"],
  *,
  clip: float,
  clip_high: float,
) -> Float[Array, "*B T"]:
  """-sg(clip(r_t, 1 - clip, 1 + clip_high)) A_t log pi(y_t), sg: no gradient.

  MiniMax 2025 (arXiv:2506.13585, CISPO): a token is weighed by the clipped
  ratio, so unlike in PPO none is left without a gradient. clip = inf leaves the
  lower side open.
  """
  ratio = importance_ratio(logprob, old_logprob)
  weight = jnp.clip(ratio, 1.0 - clip, 1.0 + clip_high) * advantage
  # No number times 0 would be none, in the gradient of what a mask hides.
  own = jnp.where(jnp.isnan(weight), jnp.nan, logprob)
  return -jax.lax.stop_gradient(weight) * own


def soft_gate(
  ratio: Float[Array, "*B T"],
  advantage: Float[Array, "*B T"],
  *,
  positive: float,
  negative: float,
) -> Float[Array, "*B T"]:
  """-(4 / tau) sigmoid(tau (r_t - 1)) A_t.

  arXiv:2511.20347 (2025, SAPO): in the place of clipping a weight that falls
  smoothly to 0 on both sides of r = 1, where the gradient is REINFORCE's. tau
  is `positive` where A_t > 0 and `negative` elsewhere.
  """
  advantage = jax.lax.stop_gradient(advantage)
  tau = jnp.where(advantage > 0, positive, negative)
  return -4.0 / tau * jax.nn.sigmoid(tau * (ratio - 1.0)) * advantage


def policy_gradient(
  logprob: Float[Array, "*B T"],
  old_logprob: Float[Array, "*B T"],
  advantage: Float[Array, "*B T"],
  masks: Sequence[Float[Array, "*B T"]] = (),
  *,
  clip: float,
  clip_high: float,
  most: float,
  dual: float = math.inf,
) -> Float[Array, "*B T"]:
  """REINFORCE with importance ratios, clipped as in PPO.

  `clipped` with r_t = exp(log pi(y_t) - log mu(y_t)), mu the policy that
  sampled. With both clips inf it is -r_t A_t, whose gradient on the sampler's
  own parameters is REINFORCE's, -A_t grad log pi(y_t). Ratios are truncated to
  `most` first, and a finite `dual` is the bound of `dual_clip`. Advantages are
  not whitened here: dividing by their deviation would remove the weight that a
  method gave a turn. `masks` are those of objectives.policy_objective, which
  only losses of whole turns read.
  """
  del masks
  ratio = truncate(importance_ratio(logprob, old_logprob), most)
  loss = clipped(ratio, advantage, clip=clip, clip_high=clip_high)
  return loss if math.isinf(dual) else dual_clip(loss, advantage, dual)
