"""New contexts from segments of old ones, by token ids."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from sitrain.types import GIVEN, OFFLINE, PAD, Episodes, Problems


def splice(
  problems: Problems, episodes: Episodes, reply: Int[Array, "B F"]
) -> Problems:
  """Problems whose prompt is a whole episode and the reply to it.

  Row b of the result continues episode b: prompt [B, T + F], left-padded;
  answer and solution are those of its problem.
  """
  joined = jnp.concatenate([episodes.tokens, reply], axis=1)
  order = jnp.argsort(joined != PAD, axis=1, stable=True)
  return Problems(
    prompt=jnp.take_along_axis(joined, order, axis=1),
    answer=problems.answer[episodes.problem],
    solution=problems.solution[episodes.problem],
  )


def graft(first: Episodes, second: Episodes) -> Episodes:
  """The turns of `first` and of the rows of `second` that continue it.

  `second` was played from `splice(.., first, ..)`, so its rows begin with the
  same tokens; there they are given. Row b of the result holds both, marked as
  OFFLINE: its first turns are judged, but they are not the policy's own.
  """
  extra = second.tokens.shape[1] - first.tokens.shape[1]
  pad = ((0, 0), (0, extra))
  turn = jnp.pad(first.turn, pad, constant_values=PAD)
  return second._replace(
    turn=jnp.where(turn > GIVEN, turn, second.turn),
    logprob=jnp.where(
      turn > GIVEN, jnp.pad(first.logprob, pad), second.logprob
    ),
    problem=first.problem,
    parent=jnp.full_like(second.parent, OFFLINE),
  )


def widen(episodes: Episodes, length: int) -> Episodes:
  """The same rows with PAD up to `length` columns."""
  pad = ((0, 0), (0, length - episodes.tokens.shape[1]))
  return episodes._replace(
    tokens=jnp.pad(episodes.tokens, pad, constant_values=PAD),
    turn=jnp.pad(episodes.turn, pad, constant_values=PAD),
    logprob=jnp.pad(episodes.logprob, pad),
    path=jnp.pad(episodes.path, pad),
  )


def stack(*parts: Episodes) -> Episodes:
  """All rows of all parts, one after the other, at the width of the widest."""
  length = max(part.tokens.shape[1] for part in parts)
  parts = [widen(part, length) for part in parts]
  return Episodes(*(jnp.concatenate(leaves) for leaves in zip(*parts)))


def join(
  first: Episodes, reply: Int[Array, "B F"], second: Int[Array, "B U"]
) -> Episodes:
  """Rows of `first`, then the reply, then `second` as the next turn.

  `second [B U]` holds the tokens of one attempt, left-aligned, PAD behind.
  """
  last = jnp.max(first.turn, axis=1, keepdims=True)
  turn = jnp.concatenate(
    [
      first.turn,
      jnp.where(reply == PAD, PAD, GIVEN),
      jnp.where(second == PAD, PAD, last + 1),
    ],
    axis=1,
  )
  tokens = jnp.concatenate([first.tokens, reply, second], axis=1)
  order = jnp.argsort(turn == PAD, axis=1, stable=True)
  tokens = jnp.take_along_axis(tokens, order, axis=1)
  return first._replace(
    tokens=tokens,
    turn=jnp.take_along_axis(turn, order, axis=1),
    logprob=jnp.zeros(tokens.shape, jnp.float32),
    path=jnp.zeros(tokens.shape, jnp.int32),
    parent=jnp.full_like(first.parent, OFFLINE),
  )
