"""How the model reads rows: each by itself, or those of a problem forked."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sitrain.models import attention, axes, decoder, forks
from sitrain.types import PAD, Episodes, Params

ATTENTION_ELEMENTS = 2**29  # scores of a layer in a part of `in_parts`


class View(NamedTuple):
  """Rows as the model reads them, and what of them is scored."""

  tokens: Int[Array, "B C"]
  heat: Float[Array, "B 1 1"]
  known: Bool[Array, "B C"]  # a token that has one before it
  hidden: Callable[[Params], Array]  # [B C D]: what predicts each token
  back: Callable[[Any], Array]  # [B C] -> [*B T]


def view(
  model: decoder.Decoder,
  tokens: Int[Array, "*B T"],
  turn: Int[Array, "*B T"],
  path: Int[Array, "*B T"],
  inputs: Int[Array, "*B T"],
  temperature: float | Float[Array, "..."],
  shared: tuple[int, ...],
) -> View:
  """Forked rows where a prompt may be shared, else all leading axes as one.

  Arguments are those of `logprobs.token_scores`.
  """
  lead, length = tokens.shape[:-1], tokens.shape[-1]
  heat = jnp.asarray(temperature, jnp.float32)
  heat = heat.reshape(heat.shape + (1,) * (len(lead) - heat.ndim))
  heat = jnp.broadcast_to(heat, lead).reshape(-1, 1, 1)
  fits = attention.settled(model.attention, length) == "plain"
  if shared and fits and model.residual == "whole":
    return _forked(model, tokens, turn, path, inputs, heat, shared)
  rows = [x.reshape(-1, length) for x in (turn, path, inputs)]
  before, known = _before(*rows[:2])
  return View(
    tokens.reshape(-1, length), heat, known,
    lambda params: _hidden(model, params, rows, before, known),
    lambda x: x.reshape(tokens.shape),
  )


def _forked(model, tokens, turn, path, inputs, heat, shared) -> View:
  """What the rows of each problem begin with once, and then each of them.

  Rows with more behind it than there is room for come back as NaN.
  """
  (problems, rows, length), (slots, rest) = tokens.shape, shared
  trunk, rest = min(slots, length), min(rest, length)
  prefix = forks.common_prefix(turn, inputs, trunk)
  start, real = prefix.length, turn != PAD
  # The last column is before no other, so the model does not read it.
  fork = forks.Fork(trunk, rows, max(rest - 1, 1))
  marks = forks.fork_rows(turn, prefix, fork, PAD)
  attend = decoder.attend_rows(marks, forks.paths_of(fork, problems))
  given = forks.fork_rows(inputs, prefix, fork, PAD)

  def hidden(params):
    reader = model.clone(fork=fork)
    found, _ = reader.apply({"params": params}, given, attend)
    found = forks.before(found, start, fork)[:, :, :rest]
    return found.reshape(problems * rows, rest, -1)

  end = jnp.max(jnp.where(real, jnp.arange(1, length + 1), 0), axis=-1)
  fits = (end - start[:, None] <= rest) & jnp.all(path == 0, axis=-1)

  def back(x):
    x = forks.to_rows(x.reshape(problems, rows, rest), start, length)
    return jnp.where(fits[..., None] | ~real, x, jnp.nan)

  branch = lambda x: forks.branches_of(x, start, rest, PAD)
  after_one = jnp.pad(real[..., :-1], ((0, 0), (0, 0), (1, 0)))
  known = branch((real & after_one).astype(jnp.int32)) > 0
  return View(
    branch(tokens).reshape(-1, rest), heat, known.reshape(-1, rest), hidden,
    back,
  )


def hidden_states(
  model: decoder.Decoder,
  params: Params,
  inputs: Int[Array, "B T"],
  turn: Int[Array, "B T"],
  path: Int[Array, "B T"],
) -> Float[Array, "B T D"]:
  """What the decoder makes of every token, in the dtype of its computation."""
  columns = inputs.shape[1]
  fill = ((0, 0), (0, axes.short_of(columns, model.residual)))
  inputs, turn = (
    jnp.pad(x, fill, constant_values=PAD) for x in (inputs, turn)
  )
  attend = decoder.attend_rows(turn, jnp.pad(path, fill))
  return model.apply({"params": params}, inputs, attend)[0][:, :columns]


def _before(turn, path):
  """The column of the last token that each one sees, and if there is one."""
  column = jnp.arange(turn.shape[1], dtype=jnp.int32)
  seen = decoder.attend_rows(turn, path).visible & (column < column[:, None])
  before = jnp.max(jnp.where(seen, column, -1), axis=-1)
  return before, before >= 0


def _hidden(model, params, rows, before, known):
  """Hidden state that predicts each token.

  The predecessor of a token is the last one that it sees. That is the column
  before, but not where a path starts, so the general gather is only executed
  on a batch that needs it: its gradient is a slow scatter.
  """
  column = jnp.arange(before.shape[1], dtype=jnp.int32)
  # The last column is before no other, so the model does not read it.
  read = max(column.size - 1, 1)
  turn, path, inputs = (x[:, :read] for x in rows)
  hidden = hidden_states(model, params, inputs, turn, path)
  return jax.lax.cond(
    jnp.all((before == column - 1) | ~known),
    lambda h: jnp.concatenate([h[:, :1], h], axis=1)[:, : column.size],
    lambda h: jnp.take_along_axis(h, jnp.maximum(before, 0)[..., None], 1),
    hidden,
  )


def in_parts(
  model: decoder.Decoder, read: Callable, episodes: Episodes, *,
  together: int = 1,
) -> Any:
  """read(tokens, turn, path) of whole episodes, without a gradient, by parts.

  `read` gets rows [N G T], G = `together` rows in a row, and returns arrays
  [N G ...], which become [B ...]. A part has as many rows as their attention
  may take memory for; it takes every n-th row, so that devices which hold rows
  share each part.
  """
  rows, length = episodes.tokens.shape
  count, columns = rows // together, max(length - 1, 1)
  held = attention.queries_held(model.attention, columns) * columns
  wanted = math.ceil(rows * model.heads * held / ATTENTION_ELEMENTS)
  # Of each part every group of devices has its share, or it would have to
  # split the widths of layers instead.
  groups = axes.over(axes.ROWS)
  each = count if count % groups else count // groups
  parts = next(n for n in range(min(wanted, each), each + 1) if each % n == 0)
  split = lambda x: x.reshape(-1, parts, together, length).swapaxes(0, 1)
  given = episodes.tokens, episodes.turn, episodes.path
  given = jax.tree.map(split, given)
  if parts == 1:
    found = read(*jax.tree.map(lambda x: x[0], given))
  else:
    found = jax.lax.map(lambda part: read(*part), given)
    swap = lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
    found = jax.tree.map(swap, found)
  return jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), found)
