"""A rollout of one row that somebody watches: a few tokens at a time.

Tokens are those of `play` with the same key. The cache is kept on the device
between two calls, at its full length.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from sitrain.models.decoder import sees_cache
from sitrain.rollout import contexts
from sitrain.rollout.caches import grown, prefill
from sitrain.rollout.play import (
  Cursor,
  Replier,
  Rollout,
  next_token,
  rollout_of,
  start_cursor,
  unfinished,
  write_column,
)
from sitrain.types import Episodes, Params, Problems


class Written(NamedTuple):
  """What a row holds so far."""

  rows: Episodes  # [1 T], their padding at both ends
  over: Bool[Array, ""]  # nothing more will be written
  column: Int[Array, ""]  # the next
  cursor: Cursor
  cache: Any


class Stream(NamedTuple):
  """The two programs of a stream, which are to be compiled."""

  begin: Callable[..., Written]  # (keys [1], params, temperature, problems)
  go_on: Callable[..., Written]  # (the same, written)


def make(
  model: Any,
  *,
  reply: Replier,
  turns: tuple[int, ...],
  eos: tuple[int, ...],
  tokens: int,
  top_k: int = 0,
  top_p: float = 1.0,
) -> Stream:
  """A stream of rows of this model: `go_on` writes up to `tokens` columns.

  Options as in `play.play_on`; the reply must be one of the device.
  """

  def rollout(keys, params: Params, temperature, problems: Problems) -> Rollout:
    return rollout_of(
      keys, model, model.for_decoding(params), problems,
      contexts.begin(problems, 1), samples=1, reply=reply, turns=turns,
      eos=eos, temperature=temperature, top_k=top_k, top_p=top_p,
    )

  def begin(*given: Any) -> Written:
    return _begin(rollout(*given))

  def go_on(
    keys: Key[Array, "1"], params: Params, temperature: Any,
    problems: Problems, written: Written,
  ) -> Written:
    return _go_on(
      rollout(keys, params, temperature, problems), written, tokens
    )

  return Stream(begin, go_on)


def _begin(rollout: Rollout) -> Written:
  """Reads the prompt."""
  cache = prefill(
    rollout.model, rollout.params, rollout.prefix.tokens, rollout.start
  )
  return Written(
    rows=contexts.widen(rollout.prefix, rollout.length),
    over=jnp.zeros((), bool),
    column=jnp.asarray(rollout.prefix.tokens.shape[1], jnp.int32),
    cursor=start_cursor(rollout, rollout.live),
    # The token of the last column is never read, so it needs no room.
    cache=grown(rollout.model, cache, 1, rollout.length - 1),
  )


def _go_on(rollout: Rollout, written: Written, count: int) -> Written:
  """Writes up to `count` columns."""
  last, number = written.column + count, jnp.arange(1)

  def step(now: Written) -> Written:
    at = now.column - 1
    token = jax.lax.dynamic_slice_in_dim(now.rows.tokens, at, 1, axis=1)
    attend = sees_cache(rollout.start, at, 1, rollout.length - 1)
    drawn, logprob, cache = next_token(
      rollout, number, now.cursor, token, attend, now.cache, at
    )
    rows, cursor = write_column(
      rollout, number, now.rows, now.cursor, drawn, logprob,
      functools.partial(_put, now.column),
    )
    over = ~jnp.any(unfinished(rollout, cursor))
    return Written(rows, over, now.column + 1, cursor, cache)

  more = lambda now: ~now.over & (now.column < last)
  return jax.lax.while_loop(more, step, written)


def _put(column, values, update):
  return jax.lax.dynamic_update_slice(
    values, update[:, None].astype(values.dtype), (0, column)
  )
