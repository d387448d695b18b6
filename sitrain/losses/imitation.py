"""Likelihood losses on plain arrays."""

from jaxtyping import Array, Float


def negative_log_likelihood(
  logprob: Float[Array, "*B T"], weight: Float[Array, "*B"]
) -> Float[Array, "*B T"]:
  """-w_b log p(y_bt): weighted maximum likelihood, one weight a row."""
  return -logprob * weight[..., None]
