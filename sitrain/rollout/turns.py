"""Play all turns of all rows in one loop."""

import functools
import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from sitrain.models.decoder import sees_cache
from sitrain.rollout import cursor as cursors
from sitrain.rollout import game as games
from sitrain.rollout.cursor import Cursor
from sitrain.rollout.game import Game
from sitrain.types import Episodes, Params, Problems

SEGMENTS = 8  # loops of one rollout at the most: each is compiled


class _Loop(NamedTuple):
  column: Int[Array, ""]  # the column to be written next
  rows: Episodes
  cursor: Cursor
  cache: Any


def prefill(
  model: Any,
  params: Params,
  prompt: Int[Array, "P S"],
  start: Int[Array, " P"],
) -> Any:
  """The cache [P N S-1 H] of all but the last prompt token."""
  width = prompt.shape[1] - 1
  cache = model.make_cache(prompt.shape[0], width)
  if not width:
    return cache
  attend = sees_cache(start, 0, width, width)
  return model.apply({"params": params}, prompt[:, :width], attend, cache, 0)[1]


def grown(model: Any, cache: Any, rows: int, length: int) -> Any:
  """The same cache of `rows` with room for `length` columns."""
  write = lambda room, x: jax.lax.dynamic_update_slice(room, x, (0,) * x.ndim)
  return jax.tree.map(write, model.make_cache(rows, length), cache)


def cache_lengths(first: int, last: int) -> list[int]:
  """Lengths that a cache grows through, from `first` to `last` columns.

  Attention reads the whole cache, so it should be short; a step of growth
  copies it, and both are held. In n steps N columns cost N / 2n needless ones
  at each of N tokens and 2 (first + N / 2) for each copy, least at
  n = N / 2 sqrt(first + N / 2).
  """
  more = last - first
  parts = round(more / (2 * math.sqrt(first + more / 2 or 1)))
  size = -(-more // min(max(parts, 1), SEGMENTS))
  return [min(n, last) for n in range(first + size, last + size, size or 1)]


def _put(column, values, update):
  """values [B T] with update [B] in one column."""
  return jax.lax.dynamic_update_slice(
    values, update[:, None].astype(values.dtype), (0, column)
  )


def play(
  keys: Key[Array, " P"],
  model: Any,
  params: Params,
  problems: Problems,
  **options: Any,
) -> Episodes:
  """Samples episodes: B = P * samples rows, problem by problem.

  One loop body serves all turns, and ends when every row is done. The cache of
  a turn serves the next; it grows by `cache_lengths`. The draw of a token is a
  function of (key of its problem, sample, turn, position in the turn), so it
  depends on no other row. Rows come back at column 0. Options are those of
  `game.make`: samples, reply, turns, eos, temperature and so on.
  """
  return play_all(games.make(keys, model, params, problems, **options))


def play_all(game: Game) -> Episodes:
  """All rows of a game, decoded together.

  The samples of a problem share the cache of their prompt.
  """
  prompt, count = game.problems.prompt, game.keys.shape[0]
  repeat = lambda x: jnp.repeat(x, game.samples, axis=0)
  start, problem = repeat(game.start), repeat(jnp.arange(prompt.shape[0]))
  cache, behind = prefill(game.model, game.params, prompt, game.start), 0
  shared = ((),) * len(cache)
  if game.samples > 1 and prompt.shape[1] > 1:
    shared, behind = cache, prompt.shape[1] - 1
    cache = game.model.make_cache(count, 0)
  loop = _Loop(
    jnp.asarray(prompt.shape[1], jnp.int32),
    cursors.empty_rows(repeat(prompt), problem, game.length),
    cursors.begin(count, game.width),
    cache,
  )

  def more(size, loop):
    room = loop.column <= behind + size
    return room & jnp.any(cursors.live(loop.cursor, len(game.turns)))

  # The token of the last column is never read, so it needs no room.
  first = prompt.shape[1] - 1 - behind
  for size in cache_lengths(first, game.length - 1 - behind):
    loop = loop._replace(cache=grown(game.model, loop.cache, count, size))
    loop = jax.lax.while_loop(
      functools.partial(more, size),
      functools.partial(_take_step, game, start, shared, behind, size),
      loop,
    )
  return cursors.left_align(loop.rows, start)


def _take_step(game, start, shared, behind, size, loop) -> _Loop:
  """All rows read a column and write the next.

  `size` columns of the cache come behind as many of the shared one.
  """
  at, number = loop.column - 1, jnp.arange(start.shape[0])
  token = jax.lax.dynamic_slice_in_dim(loop.rows.tokens, at, 1, axis=1)
  attend = sees_cache(start, at, 1, behind + size)
  cache = tuple(map(operator.add, loop.cache, shared))
  drawn, logprob, cache = games.next_token(
    game, number, loop.cursor, token, attend, cache, at - behind
  )
  rows, cursor = games.write(
    game, number, loop.rows, loop.cursor, drawn, logprob,
    functools.partial(_put, loop.column),
  )
  return _Loop(loop.column + 1, rows, cursor, cache)
