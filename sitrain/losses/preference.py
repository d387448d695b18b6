"""Losses on pairs of rows, or on single ones that are good or bad.

A loss of pairs is a margin, how much better the chosen row is, and a function
of it: DPO, SimPO and ORPO put their margins into `bradley_terry`, IPO into
`squared_margin`. `logprob` is of a whole row: `sequence_sum` or `sequence_mean`
of its tokens. The chosen row of a pair comes first.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sitrain.losses.reduce import at_least_float32

NEAREST = 1e-6  # nat below 0; the log odds of a likelier row are those of it


def bradley_terry(
  margin: Float[Array, " B"], label: Float[Array, " B"]
) -> Float[Array, " B"]:
  """-label log sigmoid(margin) - (1 - label) log sigmoid(-margin).

  `margin` is how much better the first row of a pair is, `label` the
  probability that it is the better one: 1 for hard pairs, 1 - e for smoothed
  ones (conservative DPO). At margin 0 it is log 2.
  """
  return -label * jax.nn.log_sigmoid(margin) - (
    1.0 - label
  ) * jax.nn.log_sigmoid(-margin)


def dpo_margin(
  logprob: Float[Array, "B 2"],
  reference_logprob: Float[Array, "B 2"],
  *,
  beta: float,
) -> Float[Array, " B"]:
  """beta (log pi(w)/ref(w) - log pi(l)/ref(l)) of sequence log-probabilities.

  Rafailov et al. 2023 (DPO), Eq. 7: the loss is -log sigmoid of it. With means
  over tokens in the place of sums it is length-normalised DPO.
  """
  gap = logprob - jax.lax.stop_gradient(reference_logprob)
  return beta * (gap[:, 0] - gap[:, 1])


def simpo_margin(
  mean_logprob: Float[Array, "B 2"], *, beta: float, target: float
) -> Float[Array, " B"]:
  """beta (mean log pi(w) - mean log pi(l)) - target, without a reference.

  Meng et al. 2024 (arXiv:2405.14734, SimPO); the means are over tokens, and the
  target is its gamma.
  """
  return beta * (mean_logprob[:, 0] - mean_logprob[:, 1]) - target


def orpo_margin(mean_logprob: Float[Array, "B 2"]) -> Float[Array, " B"]:
  """log odds(w) - log odds(l), odds = p / (1 - p), p = exp(mean log pi).

  Hong et al. 2024 (arXiv:2403.07691, ORPO), where the loss is the likelihood of
  the chosen row and lambda times -log sigmoid of this. p is kept below 1, where
  the odds are infinite.
  """
  below = jnp.minimum(mean_logprob, -NEAREST)
  log_odds = below - jnp.log(-jnp.expm1(below))
  return log_odds[:, 0] - log_odds[:, 1]


def squared_margin(
  gap: Float[Array, " B"], label: Float[Array, " B"], *, beta: float
) -> Float[Array, " B"]:
  """(gap - 1 / (2 beta))^2; of a label below 1 the mean over both orders.

  Azar et al. 2023 (arXiv:2310.12036, IPO), Eq. 17, with beta for its tau: the
  gap is `dpo_margin` with beta = 1 and has a finite optimum. TRL takes means
  over tokens for it, which it says the authors did.
  """
  target = 1.0 / (2.0 * beta)
  right, wrong = jnp.square(gap - target), jnp.square(gap + target)
  return label * right + (1.0 - label) * wrong


def kto(
  gap: Float[Array, " B"],
  good: Float[Array, " B"],
  baseline: Float[Array, " B"],
  *,
  beta: float,
  weight_good: float,
  weight_bad: float,
) -> Float[Array, " B"]:
  """w (1 - sigmoid(+-beta (gap - baseline))): + of good rows, - of bad ones.

  Ethayarajh et al. 2024 (arXiv:2402.01306, KTO), Eq. 7: gap = log pi - log ref
  of a row by itself, without a partner; the baseline is at least 0 and stands
  for the KL between the two.
  """
  stop = jax.lax.stop_gradient
  value = beta * (gap - stop(jnp.maximum(baseline, 0.0)))
  return jnp.where(
    good > 0, weight_good * jax.nn.sigmoid(-value),
    weight_bad * jax.nn.sigmoid(value),
  )


def sequence_mean(
  x: Float[Array, "*B T"], mask: Float[Array, "*B T"]
) -> Float[Array, "*B"]:
  """Means over the tokens under the mask, 0 where there are none."""
  count = jnp.sum(mask > 0, axis=-1)
  return sequence_sum(x, mask) / jnp.maximum(count, 1)


def sequence_sum(
  x: Float[Array, "*B T"], mask: Float[Array, "*B T"]
) -> Float[Array, "*B"]:
  """Sums over the tokens under the mask."""
  return jnp.sum(jnp.where(mask > 0, at_least_float32(x), 0.0), axis=-1)
