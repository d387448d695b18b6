"""The one cursor: who writes the next column of every row, and what.

Every row writes the same column at each step: a token of its own turn, the
next token of the reply that it was given, or PAD once it is done.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from sitrain.types import GIVEN, PAD, ROOT, Episodes


class Cursor(NamedTuple):
  """Where each row stands. `turn` counts from the first turn played."""

  turn: Int[Array, " B"]  # the turn being written, or to be written next
  position: Int[Array, " B"]  # tokens written in that turn
  reply: Int[Array, "B F"]  # the reply that comes before that turn
  read: Int[Array, " B"]  # reply tokens already written


def begin(rows: int, width: int) -> Cursor:
  """Rows at the start of turn 0, with no reply to read."""
  zeros = jnp.zeros(rows, jnp.int32)
  return Cursor(zeros, zeros, jnp.full((rows, width), PAD, jnp.int32), zeros)


def replying(cursor: Cursor) -> Bool[Array, " B"]:
  """Rows whose next token is one of the reply's."""
  return cursor.read < jnp.sum(cursor.reply != PAD, axis=1)


def live(cursor: Cursor, turns: int) -> Bool[Array, " B"]:
  """Rows that still have something to write."""
  return cursor.turn < turns


def advance(
  cursor: Cursor,
  drawn: Int[Array, " B"],
  *,
  first_turn: int,
  limits: tuple[int, ...],
  eos: tuple[int, ...],
) -> tuple[Cursor, Int[Array, " B"], Int[Array, " B"], Bool[Array, " B"]]:
  """Writes one column.

  `drawn [B]` is what each row would write if it is its turn (PAD ends the row).
  Returns the cursor behind the column, its tokens, its `turn` marks, and which
  rows have just ended a turn: by an end token or at the limit of the turn.
  """
  given = replying(cursor) & live(cursor, len(limits))
  writing = ~given & live(cursor, len(limits)) & (drawn != PAD)
  at = jnp.minimum(cursor.read, cursor.reply.shape[1] - 1)[:, None]
  reply_token = jnp.take_along_axis(cursor.reply, at, axis=1)[:, 0]
  token = jnp.where(writing, drawn, jnp.where(given, reply_token, PAD))
  mark = jnp.where(given, GIVEN, PAD)
  mark = jnp.where(writing, cursor.turn + first_turn, mark)
  limit = jnp.asarray(limits)[jnp.minimum(cursor.turn, len(limits) - 1)]
  position = cursor.position + writing
  stop = jnp.isin(token, jnp.asarray(eos, jnp.int32)) | (position >= limit)
  ended = writing & stop
  stuck = ~given & (drawn == PAD)
  turn = jnp.where(stuck, len(limits), cursor.turn + ended)
  cursor = cursor._replace(
    turn=turn,
    position=jnp.where(ended, 0, position),
    read=cursor.read + given,
  )
  return cursor, token, mark, ended


def take_reply(
  cursor: Cursor, ended: Bool[Array, " B"], reply: Int[Array, "B F"], turns: int
) -> Cursor:
  """Hands rows that ended a turn their reply; an empty one ends the episode."""
  silent = ended & jnp.all(reply == PAD, axis=1)
  return cursor._replace(
    turn=jnp.where(silent, turns, cursor.turn),
    reply=jnp.where(ended[:, None], reply, cursor.reply),
    read=jnp.where(ended, 0, cursor.read),
  )


def limits_of(turns: tuple[int, ...], prompt: int, reply: int) -> int:
  """Columns of a row: prompt, all turns at their limits, replies between."""
  return prompt + sum(turns) + (len(turns) - 1) * reply


def empty_rows(
  prompt: Int[Array, "B S"], problem: Int[Array, " B"], length: int
) -> Episodes:
  """Rows of `length` columns that hold only their left-padded prompts."""
  rows, slots = prompt.shape
  blank = jnp.full((rows, length - slots), PAD, jnp.int32)
  return Episodes(
    tokens=jnp.concatenate([prompt, blank], axis=1),
    turn=jnp.concatenate([jnp.where(prompt == PAD, PAD, GIVEN), blank], axis=1),
    logprob=jnp.zeros((rows, length), jnp.float32),
    path=jnp.zeros((rows, length), jnp.int32),
    problem=problem,
    parent=jnp.full(rows, ROOT, jnp.int32),
  )


def left_align(
  episodes: Episodes, start: Int[Array, " B"]
) -> Episodes:
  """Shifts every row left by `start [B]` columns; PAD follows."""
  length = episodes.tokens.shape[1]
  source = jnp.arange(length) + start[:, None]

  def shift(values, fill):
    moved = jnp.take_along_axis(
      values, jnp.minimum(source, length - 1), axis=1
    )
    return jnp.where(source < length, moved, fill).astype(values.dtype)

  return episodes._replace(
    tokens=shift(episodes.tokens, PAD),
    turn=shift(episodes.turn, PAD),
    logprob=shift(episodes.logprob, 0.0),
    path=shift(episodes.path, 0),
  )


Reply = Callable[[Array, Episodes, Array], Array]
