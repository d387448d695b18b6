"""Losses on pairs of rows, on plain arrays: a chosen and a rejected one."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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

  Rafailov et al. 2023 (DPO), Eq. 7: the loss is -log sigmoid of it.
  """
  gap = logprob - jax.lax.stop_gradient(reference_logprob)
  return beta * (gap[:, 0] - gap[:, 1])


def sequence_sum(
  x: Float[Array, "B 2 T"], mask: Float[Array, "B 2 T"]
) -> Float[Array, "B 2"]:
  """Sums over the tokens under the mask."""
  return jnp.sum(jnp.where(mask > 0, x, 0.0), axis=-1)
