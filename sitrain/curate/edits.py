"""Steps that differ: errors put into right attempts, and corrected attempts."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.curate.segments import segment_numbers
from sitrain.types import Episodes, Task


class Edited(NamedTuple):
  """Rows with an error in each."""

  rows: Episodes  # [B T]
  step: Bool[Array, "B T"]  # from the changed token to the end of its step
  found: Bool[Array, " B"]  # whether there is a token to change


def ids_of(task: Task, text: str) -> tuple[int, ...]:
  """The token of each character; ValueError where one is not a single token."""
  ids = [task.tokenizer.encode(character) for character in text]
  if any(len(one) != 1 for one in ids):
    raise ValueError(f"{text!r}: each character must be one token of this task")
  return tuple(one[0] for one in ids)


def one_id(task: Task, text: str) -> int:
  """The token that a text is; ValueError where it is not a single one."""
  ids = task.tokenizer.encode(text)
  if len(ids) != 1:
    raise ValueError(f"{text!r}: it must be one token of this task")
  return ids[0]


def inject(
  rows: Episodes,
  noise: Float[Array, "B T"],
  shift: Float[Array, " B"],
  *,
  ids: tuple[int, ...],
  ends: tuple[int, ...],
) -> Edited:
  """Replaces one written token of `ids` of each row by another one of them.

  That of the highest `noise`, uniform in [0, 1), as `shift` is, by which each
  other token is equally likely. Steps end with a token of `ends` and with their
  turn (segments.segment_numbers). What follows the change stays as it was.

  The first of the paper's edits, of a numeric value (arXiv:2410.06638).
  """
  values = jnp.asarray(ids, jnp.int32)
  column = jnp.arange(rows.tokens.shape[1])
  may = (rows.turn > 0) & jnp.isin(rows.tokens, values)
  place = jnp.argmax(jnp.where(may, noise, -1.0), axis=1)[:, None]
  old = jnp.take_along_axis(rows.tokens, place, axis=1)
  number = jnp.argmax(old == values, axis=1)
  far = 1 + jnp.floor(shift * (len(ids) - 1)).astype(jnp.int32)
  new = values[(number + far) % len(ids)][:, None]
  found = jnp.any(may, axis=1)
  here = (column == place) & found[:, None]
  step = segment_numbers(rows.tokens, rows.turn, ends, column.size)
  own = step == jnp.take_along_axis(step, place, axis=1)
  tokens = jnp.where(here, new, rows.tokens)
  return Edited(
    rows._replace(tokens=tokens),
    own & (column >= place) & found[:, None], found,
  )


def until_changed(
  tokens: Int[Array, "*B T"],
  turn: Int[Array, "*B T"],
  ends: tuple[int, ...],
  *,
  first: int = 1,
  last: int = 3,
) -> Bool[Array, "*B T"]:
  """Mask of a corrected attempt up to the end of its first changed step.

  False behind the step of turn `last` in which a token first differs from the
  token at the same place of turn `first`; steps end as in `inject`. True in all
  other turns, and where `last` is a copy of `first`.
  """
  shape, width = tokens.shape, tokens.shape[-1]
  tokens, turn = tokens.reshape(-1, width), turn.reshape(-1, width)
  own = turn == last
  order = jnp.argsort(turn != first, axis=1, stable=True)
  before = jnp.take_along_axis(tokens, order, axis=1)
  rank = jnp.maximum(jnp.cumsum(own, axis=1) - 1, 0)
  same = tokens == jnp.take_along_axis(before, rank, axis=1)
  same &= rank < jnp.sum(turn == first, axis=1, keepdims=True)
  number = segment_numbers(tokens, jnp.where(own, turn, 0), ends, width)
  at = jnp.where(own & ~same, number, width)
  kept = ~own | (number <= jnp.min(at, axis=1, keepdims=True))
  return kept.reshape(shape)
