"""Likelihood losses on plain arrays."""

from jaxtyping import Array, Float


def negative_log_likelihood(
  logprob: Float[Array, "*B T"], weight: Float[Array, "*B T"]
) -> Float[Array, "*B T"]:
  """-w_t log p(y_t): weighted maximum likelihood, one weight a token."""
  return -logprob * weight


def hard_tokens(
  logprob: Float[Array, "*B T"], entropy: Float[Array, "*B T"], *, weight: float
) -> Float[Array, "*B T"]:
  """-log p(y_t) - weight * entropy_t: how surprising a token is.

  arXiv:2508.03178 (Light-IF): `curate.select.top_share` of it are the tokens
  that its supervised stage trains on, so that certain tokens are left alone
  and the entropy is kept. weight = 0 selects by likelihood alone.
  """
  return -logprob - weight * entropy
