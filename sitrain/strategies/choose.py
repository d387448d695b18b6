"""Which of several attempts is the answer."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.judge.drafts import votes
from sitrain.judge.verifier import written
from sitrain.types import Episodes


def majority(
  final: Int[Array, "P n"], score: Float[Array, "P n"]
) -> Int[Array, " P"]:
  """The attempt of each problem that a vote over final answers chooses.

  Of the attempts whose answers have the most votes, the one with the highest
  score. Attempts without an answer (-1) have no vote: one of them is chosen
  only where no attempt has an answer.
  """
  count = votes(final)
  top = count == count.max(axis=1, keepdims=True)
  return jnp.argmax(jnp.where(top, score, -jnp.inf), axis=1)


def last_written(
  episodes: Episodes, turns: int, every: int = 1
) -> Int[Array, " B"]:
  """The last attempt of each row, as a turn from 1.

  Attempts are the turns 1, 1 + every, 1 + 2 * every, and so on.
  """
  count: Bool[Array, "B K"] = written(episodes, turns)[:, ::every]
  return jnp.maximum(count.sum(axis=1) - 1, 0) * every + 1
