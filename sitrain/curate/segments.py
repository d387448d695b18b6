"""Credit inside of a turn: rewards of segments for the tokens of segments.

A segment is a run of the policy's tokens, such as a step of a solution or an
explanation before a program. Its number marks its tokens as that of a turn
does, so `advantage.to_tokens`, `advantage.at_last_token` (the reward of a token
where a critic values tokens) and `select.token_mask` read it the same way.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.curate.advantage import returns, to_tokens
from sitrain.curate.select import token_mask
from sitrain.types import Episodes


def segment_numbers(
  tokens: Int[Array, "B T"],
  turn: Int[Array, "B T"],
  ends: tuple[int, ...],
  most: int,
) -> Int[Array, "B T"]:
  """The number of each token's segment, from 1 on in each row; 0 outside.

  A segment ends with its turn, and with a token of `ends`, which is its own.
  What would have a number above `most` belongs to segment `most`.
  """
  own = turn > 0
  before = jnp.pad(turn[:, :-1], ((0, 0), (1, 0)))
  marks = jnp.isin(tokens, jnp.asarray(ends, jnp.int32)) & own
  after_end = jnp.pad(marks[:, :-1], ((0, 0), (1, 0)))
  begins = own & (after_end | (turn != before))
  number = jnp.minimum(jnp.cumsum(begins, axis=1), most)
  return jnp.where(own, number, 0)


def step_numbers(
  rows: Episodes, ends: tuple[int, ...]
) -> Int[Array, "B T"]:
  """The number of each token's step; 0 outside of turns."""
  return segment_numbers(rows.tokens, rows.turn, ends, rows.turn.shape[1])


def value_of_segment(
  value: Float[Array, "B K S"],
  tokens: Int[Array, "B T"],
  turn: Int[Array, "B T"],
  ends: tuple[int, ...],
) -> Float[Array, "B T"]:
  """One number for each segment of each turn, on its tokens; 0 elsewhere.

  Segments are counted from 1 on in every turn; the last number holds for later
  ones, too.
  """
  found = jnp.zeros(tokens.shape)
  for k in range(value.shape[1]):
    own = jnp.where(turn == k + 1, turn, 0)
    number = segment_numbers(tokens, own, ends, value.shape[2])
    found += to_tokens(value[:, k], number)
  return found


def segment_credit(
  reward: Float[Array, "B S"],
  known: Float[Array, "B S"],
  segment: Int[Array, "B T"],
  group: Int[Array, " B"],
  *,
  estimate: Callable,
  discount: float,
) -> tuple[Float[Array, "B S"], Bool[Array, "B S"]]:
  """An advantage for each segment of every row, and which of them have one.

  Segments of one number are compared among the rows of a group that have them
  (Zhao et al. 2025, arXiv:2506.06923, SPOC, Alg. 4, which normalises messages
  by their place); `estimate`: advantage.ESTIMATES. discount=0: a segment is
  credited with its own reward alone; above, later ones of its row count as in
  advantage.returns. LeDex (Jiang et al. 2024, arXiv:2405.18649) prints the
  latter for its explanations and describes the former. A segment counts if it
  is written and its return is known. `segment_tokens` takes both results.
  """
  number = jnp.arange(1, reward.shape[1] + 1)
  written = jnp.any(segment[:, None] == number[:, None], axis=2)
  value, counted = returns(reward, written & (known > 0), written, discount)
  over_segments = jax.vmap(estimate, in_axes=(1, None, 1), out_axes=1)
  gain = over_segments(value, group, counted.astype(jnp.float32))
  return jnp.where(counted, gain, 0.0), counted


def gated(
  advantage: Float[Array, "B #S"],
  right: Bool[Array, "B S"],
  known: Float[Array, "B S"],
) -> Float[Array, "B S"]:
  """Advantages, but 0 where they disagree with the step's own verdict.

  Kept are A >= 0 of right steps and A < 0 of wrong ones: a good answer does not
  teach its wrong steps, nor a bad one unteach its right ones. A step without a
  verdict gets 0. `advantage` [B 1] is that of whole rows. The rule is that of
  SPARK's selective advantage (arXiv:2512.03244), after a description of it; its
  authors have published no code.
  """
  agrees = jnp.where(right, advantage >= 0, advantage < 0)
  return jnp.where(agrees & (known > 0), advantage, 0.0)


def segment_tokens(
  advantage: Float[Array, "B S"],
  counted: Bool[Array, "B S"],
  segment: Int[Array, "B T"],
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
  """The advantage of each token, and 1 on those of segments that count."""
  return to_tokens(advantage, segment), token_mask(segment, counted)
