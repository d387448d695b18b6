"""Likelihood losses on plain arrays."""

from jaxtyping import Array, Float


def negative_log_likelihood(
  logprob: Float[Array, "*B T"], weight: Float[Array, "*B T"]
) -> Float[Array, "*B T"]:
  """-w_t log p(y_t): weighted maximum likelihood, one weight a token."""
  return -logprob * weight
