"""The tokens of one turn of the policy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from sitrain.types import PAD, Episodes, Verdict


def attempt(
  episodes: Episodes, turn: int | Int[Array, ""], length: int
) -> Int[Array, "B {length}"]:
  """The first `length` tokens of a turn, left-aligned, PAD after them.

  The tokens are those with `episodes.turn == turn`, wherever they stand.
  """
  written = jnp.cumsum(episodes.turn == turn, axis=1)
  rank = jnp.arange(1, length + 1, dtype=written.dtype)
  column = jax.vmap(lambda row: jnp.searchsorted(row, rank))(written)
  tokens = jnp.take_along_axis(
    episodes.tokens, jnp.minimum(column, written.shape[1] - 1), axis=1
  )
  return jnp.where(rank <= written[:, -1:], tokens, PAD)


def ends_once(
  tokens: Int[Array, "B N"], eos: tuple[int, ...]
) -> Bool[Array, " B"]:
  """True where exactly one token is in `eos`, and it is the last one."""
  end = jnp.isin(tokens, jnp.array(eos, tokens.dtype))
  place = jnp.sum(tokens != PAD, axis=1)
  return (jnp.sum(end, axis=1) == 1) & (jnp.argmax(end, axis=1) + 1 == place)


def judge_turns(
  right: Callable[[Int[Array, "B N"]], Bool[Array, " B"]],
  episodes: Episodes,
  turns: int,
  length: int,
) -> Verdict:
  """Reward 1 for each turn whose first `length` tokens are right, else 0."""
  each = [right(attempt(episodes, k + 1, length)) for k in range(turns)]
  reward = jnp.stack(each, axis=1).astype(jnp.float32)
  return Verdict(reward, jnp.ones_like(reward))
