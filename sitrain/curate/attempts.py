"""Attempts of a trajectory to imitate: which of them, and their weights."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sitrain.judge.groups import FULL
from sitrain.tasks.attempt import attempt
from sitrain.types import Episodes, Verdict

CRITERIA = ("all", "better", "best", "success")


def check(tau: float, missing: float) -> None:
  """Raises ValueError for weights e^(r / tau) that float32 cannot hold.

  And for a reward of no answer above that of a right one.
  """
  if not 0.02 <= tau < math.inf:  # e^(1 / 0.01) is beyond it.
    raise ValueError(f"tau={tau}: set it above 0, from 0.02 on, such as 0.4")
  if not -math.inf < missing <= 1.0:
    raise ValueError(f"missing={missing}: give a number up to 1, such as -1")


def chosen(
  verdict: Verdict, *, criterion: str, stop: bool
) -> Bool[Array, "B K"]:
  """Attempts that a criterion of RISE keeps (arXiv:2407.18219, its code).

  all; better: a higher reward than the attempt before; best: none before has a
  higher one; success: a reward of 1. The first is kept by all but success.
  stop: none behind one with a reward of 1. Attempts whose verdict is not known,
  and those behind them, are never kept.
  """
  counted = jnp.cumprod(verdict.known > 0, axis=1) > 0
  reward = jnp.where(counted, verdict.reward, 0.0)
  solved = reward >= FULL
  is_first = jnp.arange(reward.shape[1]) == 0
  keep = {
    "all": jnp.ones_like(solved),
    "better": is_first | (reward > _before(reward)),
    "best": is_first | (reward >= _before(jax.lax.cummax(reward, axis=1))),
    "success": solved,
  }[criterion]
  if stop:
    keep &= ~_before(jnp.cumsum(solved, axis=1) > 0)
  return keep & counted


def _before(x):
  """The column before each one; False or 0 before the first."""
  return jnp.pad(x[:, :-1], ((0, 0), (1, 0)))


def repeated(
  episodes: Episodes, turns: tuple[int, ...]
) -> Bool[Array, "B K"]:
  """Whether an attempt has the tokens of an earlier one of its row.

  `turns` has the token limit of each.
  """
  each = [attempt(episodes, k + 1, max(turns)) for k in range(len(turns))]
  text = jnp.stack(each, axis=1)
  same = jnp.all(text[:, :, None] == text[:, None], axis=-1)
  return jnp.any(same & jnp.tri(len(turns), k=-1, dtype=bool), axis=2)


def reward_weights(
  reward: Float[Array, "B K"],
  kept: Bool[Array, "B K"],
  *,
  tau: float,
  normalise: bool,
) -> Float[Array, "B K"]:
  """exp(reward / tau) of the kept attempts, 0 elsewhere.

  Reward-weighted regression as RISE has it (arXiv:2407.18219). normalise: over
  their mean, that of all kept attempts of the round.
  """
  weight = jnp.where(kept, jnp.exp(jnp.where(kept, reward, 0.0) / tau), 0.0)
  if normalise:
    count = jnp.maximum(jnp.sum(kept), 1)
    weight /= jnp.maximum(jnp.sum(weight) / count, 1e-6)
  return weight
