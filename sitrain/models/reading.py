"""How the decoder reads rows that are scored: one by one, or forked.

Rows [P G T] of P problems often begin with G copies of a prompt. Forked, they
are P rows of `trunk` columns, which hold what the rows of a problem have in
common, and G branches of `length` columns each: with 8 samples, prompts of 64
tokens and answers of 32 the decoder reads 0.42 of the columns.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.models import attention, axes, decoder
from sitrain.models.attention import Fork
from sitrain.types import GIVEN, PAD, Episodes, Params, Policy

ATTENTION_ELEMENTS = 2**29  # scores of a layer in a part of `in_parts`


class Reading(NamedTuple):
  """What the decoder reads of rows, and which tokens are scored.

  C columns of B rows are scored: all columns of rows that are read one by one,
  and of forked rows the branches.
  """

  tokens: Int[Array, "B C"]
  temperature: Float[Array, "B 1 1"]
  scored: Bool[Array, "B C"]  # a token with another one before it
  hidden: Callable[[Params], Array]  # -> [B C D]: what predicts each token
  to_rows: Callable[[Any], Array]  # [B C] -> [*B T]


def prepare(
  model: Policy,
  tokens: Int[Array, "*B T"],
  turn: Int[Array, "*B T"],
  path: Int[Array, "*B T"],
  inputs: Int[Array, "*B T"],
  temperature: float | Float[Array, "..."],
  shared: tuple[int, ...],
) -> Reading:
  """Forks rows where `shared` allows it, else flattens the leading axes.

  Arguments are those of `logprobs.token_scores`.
  """
  lead, length = tokens.shape[:-1], tokens.shape[-1]
  temperature = jnp.asarray(temperature, jnp.float32)
  missing = (1,) * (len(lead) - temperature.ndim)
  temperature = temperature.reshape(temperature.shape + missing)
  temperature = jnp.broadcast_to(temperature, lead).reshape(-1, 1, 1)
  plain = attention.settled(model.attention, length) == "plain"
  if shared and plain and model.residual == "whole":
    return _forked(model, tokens, turn, path, inputs, temperature, shared)
  rows = [x.reshape(-1, length) for x in (turn, path, inputs)]
  before, scored = _before(*rows[:2])
  return Reading(
    tokens.reshape(-1, length), temperature, scored,
    lambda params: _predicting(model, params, rows, before, scored),
    lambda x: x.reshape(tokens.shape),
  )


def hidden_states(
  model: Policy,
  params: Params,
  inputs: Int[Array, "B T"],
  turn: Int[Array, "B T"],
  path: Int[Array, "B T"],
) -> Float[Array, "B T D"]:
  """The decoder's last hidden state of every token, in its compute dtype."""
  columns = inputs.shape[1]
  fill = ((0, 0), (0, axes.short_of(columns, model.residual)))
  inputs, turn = (
    jnp.pad(x, fill, constant_values=PAD) for x in (inputs, turn)
  )
  attend = decoder.sees_rows(turn, jnp.pad(path, fill))
  return model.apply({"params": params}, inputs, attend)[0][:, :columns]


def _before(turn, path):
  """The column of the last token that each one sees, and if there is one."""
  column = jnp.arange(turn.shape[1], dtype=jnp.int32)
  seen = decoder.sees_rows(turn, path).visible & (column < column[:, None])
  before = jnp.max(jnp.where(seen, column, -1), axis=-1)
  return before, before >= 0


def _predicting(model, params, rows, before, scored):
  """The hidden state that predicts each token, of rows read one by one.

  The predecessor of a token is the last one that it sees. That is the column
  before, except where a path starts. So the general gather, whose gradient is
  a slow scatter, is only executed for a batch that needs it.
  """
  column = jnp.arange(before.shape[1], dtype=jnp.int32)
  # The last column predicts no other, so the model does not read it.
  read = max(column.size - 1, 1)
  turn, path, inputs = (x[:, :read] for x in rows)
  hidden = hidden_states(model, params, inputs, turn, path)
  return jax.lax.cond(
    jnp.all((before == column - 1) | ~scored),
    lambda h: jnp.concatenate([h[:, :1], h], axis=1)[:, : column.size],
    lambda h: jnp.take_along_axis(h, jnp.maximum(before, 0)[..., None], 1),
    hidden,
  )


def _forked(model, tokens, turn, path, inputs, temperature, shared) -> Reading:
  """Reads the common prefix of a problem's rows once, and the rest of each.

  A row whose rest does not fit into a branch comes back as NaN.
  """
  (problems, rows, length), (slots, rest) = tokens.shape, shared
  trunk, rest = min(slots, length), min(rest, length)
  prefix = common_prefix(turn, inputs, trunk)
  start, real = prefix.length, turn != PAD
  # The last column predicts no other, so the model does not read it.
  fork = Fork(trunk, rows, max(rest - 1, 1))
  attend = decoder.sees_rows(
    fork_rows(turn, prefix, fork, PAD), paths_of(fork, problems)
  )
  given = fork_rows(inputs, prefix, fork, PAD)

  def hidden(params):
    reader = model.clone(fork=fork)
    states, _ = reader.apply({"params": params}, given, attend)
    states = predicting_branches(states, start, fork)[:, :, :rest]
    return states.reshape(problems * rows, rest, -1)

  end = jnp.max(jnp.where(real, jnp.arange(1, length + 1), 0), axis=-1)
  fits = (end - start[:, None] <= rest) & jnp.all(path == 0, axis=-1)

  def to_rows(x):
    x = from_branches(x.reshape(problems, rows, rest), start, length)
    return jnp.where(fits[..., None] | ~real, x, jnp.nan)

  branch = lambda x: branches_of(x, start, rest, PAD)
  follows = jnp.pad(real[..., :-1], ((0, 0), (0, 0), (1, 0)))
  scored = branch((real & follows).astype(jnp.int32)) > 0
  return Reading(
    branch(tokens).reshape(-1, rest), temperature, scored.reshape(-1, rest),
    hidden, to_rows,
  )


class Prefix(NamedTuple):
  """What all rows of a problem begin with."""

  length: Int[Array, " P"]  # columns
  row: Int[Array, " P"]  # a row that has it


def common_prefix(
  turn: Int[Array, "P G T"], inputs: Int[Array, "P G T"], most: int
) -> Prefix:
  """The leading columns that are given, and equal in all rows of a problem.

  At most `most` of them; pads may be among them. Rows of pads alone are
  ignored.
  """
  empty = jnp.all(turn == PAD, axis=-1, keepdims=True)
  row = jnp.argmin(empty[..., 0], axis=1).astype(jnp.int32)
  first = lambda x: jnp.take_along_axis(x, row[:, None, None], axis=1)
  same = (turn == first(turn)) & (turn <= GIVEN)
  same &= (inputs == first(inputs)) | (turn == PAD)
  equal = jnp.all((same | empty)[..., :most], axis=1)
  length = jnp.sum(jnp.cumprod(equal, axis=-1, dtype=jnp.int32), axis=-1)
  return Prefix(length, row)


def fork_rows(
  x: Int[Array, "P G T"], prefix: Prefix, fork: Fork, fill: int
) -> Int[Array, "P Q"]:
  """The common prefix of a problem's rows, then the rest of each row.

  Trunk and branches are filled up with `fill`.
  """
  column, start = jnp.arange(fork.trunk), prefix.length
  first = jnp.take_along_axis(x, prefix.row[:, None, None], axis=1)[:, 0]
  trunk = jnp.where(column < start[:, None], first[:, : fork.trunk], fill)
  rest = branches_of(x, start, fork.length, fill)
  return jnp.concatenate([trunk, rest.reshape(x.shape[0], -1)], axis=1)


def branches_of(
  x: Int[Array, "P G T"], start: Int[Array, " P"], length: int, fill: int
) -> Int[Array, "P G L"]:
  """`length` columns of each row from `start` on; past its end, `fill`."""
  index, last = start[:, None, None] + jnp.arange(length), x.shape[2] - 1
  taken = jnp.take_along_axis(x, jnp.minimum(index, last), axis=2)
  return jnp.where(index <= last, taken, fill)


def paths_of(fork: Fork, rows: int) -> Int[Array, "P Q"]:
  """`Episodes.path` of forked rows: 0 in the trunk, then 1 to G."""
  branch = jnp.repeat(jnp.arange(1, fork.branches + 1), fork.length)
  path = jnp.concatenate([jnp.zeros(fork.trunk, jnp.int32), branch])
  return jnp.broadcast_to(path.astype(jnp.int32), (rows, path.size))


def predicting_branches(
  hidden: Float[Array, "P Q D"], start: Int[Array, " P"], fork: Fork
) -> Float[Array, "P G L D"]:
  """For every token of a branch the hidden state one token before it.

  For the first token that is the prefix's last. The branch may have been read
  without its last column, so L is fork.length + 1.
  """
  rows, width = hidden.shape[0], hidden.shape[2]
  column = jnp.arange(fork.trunk)
  # A sum and no gather: the gradient of a gather is a slow scatter.
  chosen = (column == start[:, None] - 1)[..., None]
  last = jnp.sum(jnp.where(chosen, hidden[:, : fork.trunk], 0), axis=1)
  last = jnp.broadcast_to(
    last[:, None, None], (rows, fork.branches, 1, width)
  )
  rest = hidden[:, fork.trunk :].reshape(rows, fork.branches, -1, width)
  return jnp.concatenate([last, rest], axis=2)


def from_branches(
  x: Float[Array, "P G L"], start: Int[Array, " P"], columns: int
) -> Float[Array, "P G T"]:
  """Numbers of branches at the columns of their tokens; 0 elsewhere."""
  index, last = jnp.arange(columns) - start[:, None, None], x.shape[2] - 1
  taken = jnp.take_along_axis(x, jnp.clip(index, 0, last), axis=2)
  return jnp.where((index >= 0) & (index <= last), taken, 0)


def in_parts(
  model: Policy, read: Callable, episodes: Episodes, *more: Array,
  together: int = 1,
) -> Any:
  """read(tokens, turn, path) of whole episodes, without a gradient, by parts.

  `read` gets rows [N G T], G = `together` rows in a row, those of the arrays
  `more` [B T] as well, and returns arrays [N G ...], which become [B ...]. A
  part has as many rows as their attention may take memory for; it takes every
  n-th row, so that devices which hold rows share each part.
  """
  rows, length = episodes.tokens.shape
  count, columns = rows // together, max(length - 1, 1)
  held = attention.queries_at_once(model.attention, columns) * columns
  wanted = math.ceil(rows * model.heads * held / ATTENTION_ELEMENTS)
  # Of each part every group of devices has its share, or it would have to
  # split the widths of layers instead.
  groups = axes.over(axes.ROWS)
  each = count if count % groups else count // groups
  parts = next(n for n in range(min(wanted, each), each + 1) if each % n == 0)
  split = lambda x: x.reshape(-1, parts, together, length).swapaxes(0, 1)
  given = episodes.tokens, episodes.turn, episodes.path, *more
  given = jax.tree.map(split, given)
  if parts == 1:
    found = read(*jax.tree.map(lambda x: x[0], given))
  else:
    found = jax.lax.map(lambda part: read(*part), given)
    swap = lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
    found = jax.tree.map(swap, found)
  return jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), found)
