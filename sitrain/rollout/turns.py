"""Play all turns of all rows in one loop."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sitrain.models.decoder import attend_cache, for_decoding
from sitrain.rollout import cursor as cursors
from sitrain.rollout.cursor import Cursor, Reply
from sitrain.rollout.sample import draw
from sitrain.types import PAD, Episodes, Params, Problems

SEGMENTS = 8  # loops of one rollout at the most: each is compiled


class _Loop(NamedTuple):
  column: Int[Array, ""]  # the column to be written next
  rows: Episodes
  cursor: Cursor
  cache: Any


def row_keys(keys: Key[Array, " P"], samples: int) -> Key[Array, " B"]:
  """One key per row: fold_in(key of its problem, number of the sample)."""
  fold = jax.vmap(jax.random.fold_in, (None, 0))
  return jax.vmap(fold, (0, None))(keys, jnp.arange(samples)).reshape(-1)


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
  attend = attend_cache(start, 0, width, width)
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


def _put(values, column, update):
  """values [B T] with update [B] in one column."""
  return jax.lax.dynamic_update_slice(
    values, update[:, None].astype(values.dtype), (0, column)
  )


def play(
  keys: Key[Array, " P"],
  model: Any,
  params: Params,
  problems: Problems,
  *,
  samples: int,
  reply: Reply,
  turns: tuple[int, ...],
  eos: tuple[int, ...],
  temperature: float | Float[Array, ""] | Float[Array, " B"],
  first_turn: int = 1,
  top_k: int = 0,
  top_p: float = 1.0,
) -> Episodes:
  """Samples episodes: B = P * samples rows, problem by problem.

  One loop body serves all turns, and ends when every row is done. The cache of
  a turn serves the next; it grows by `cache_lengths`. `turns` holds the token
  limit of each turn; the first is numbered `first_turn`.
  `reply(answer [B A], episodes, turn [B])` is what a row reads when that turn
  has ended; a reply of PAD alone ends the episode. The draw of a token is a
  function of (key of its problem, sample, turn, position in the turn), so it
  depends on no other row. `temperature` is a number or one per row; 0 is
  greedy. Rows come back at column 0.
  """
  start = jnp.sum(problems.prompt == PAD, axis=1)
  answer = jnp.repeat(problems.answer, samples, axis=0)
  prompt = jnp.repeat(problems.prompt, samples, axis=0)
  problem = jnp.repeat(jnp.arange(start.shape[0]), samples)
  count = prompt.shape[0]
  width = reply_width(reply, answer, prompt, problem)
  length = cursors.limits_of(turns, prompt.shape[1], width)
  params = for_decoding(params, model.dtype)
  cache = prefill(model, params, problems.prompt, start)
  cache = jax.tree.map(lambda x: jnp.repeat(x, samples, axis=0), cache)
  start = jnp.repeat(start, samples)
  keys = row_keys(keys, samples)
  heat = jnp.broadcast_to(jnp.asarray(temperature, jnp.float32), start.shape)

  def more(size, loop):
    room = loop.column <= size
    return room & jnp.any(cursors.live(loop.cursor, len(turns)))

  def body(size, loop):
    token, logprob, cache = _next_token(
      model, params, loop, size, keys, start, heat, first_turn, top_k, top_p
    )
    cursor, rows = _write(
      loop, token, logprob, answer, reply, first_turn, turns, eos
    )
    return _Loop(loop.column + 1, rows, cursor, cache)

  loop = _Loop(
    jnp.asarray(prompt.shape[1], jnp.int32),
    cursors.empty_rows(prompt, problem, length),
    cursors.begin(count, width),
    cache,
  )
  # The token of the last column is never read, so it needs no room.
  for size in cache_lengths(prompt.shape[1] - 1, length - 1):
    loop = loop._replace(cache=grown(model, loop.cache, count, size))
    loop = jax.lax.while_loop(
      functools.partial(more, size), functools.partial(body, size), loop
    )
  return cursors.left_align(loop.rows, start)


def reply_width(
  reply: Reply,
  answer: Int[Array, "B A"],
  prompt: Int[Array, "B S"],
  problem: Int[Array, " B"],
) -> int:
  """Columns of the replies to such rows."""
  rows = cursors.empty_rows(prompt, problem, prompt.shape[1] + 1)
  return jax.eval_shape(reply, answer, rows, problem).shape[1]


def _next_token(
  model, params, loop, length, keys, start, heat, first_turn, top_k, top_p
):
  """Reads the column before the cursor and draws what may come next.

  `length` is that of the cache.
  """
  at = loop.column - 1
  token = jax.lax.dynamic_slice_in_dim(loop.rows.tokens, at, 1, axis=1)
  hidden, cache = model.apply(
    {"params": params}, token, attend_cache(start, at, 1, length),
    loop.cache, at,
  )
  logits = model.apply({"params": params}, hidden[:, 0], method="logits")
  fold = jax.vmap(jax.random.fold_in)
  keys = fold(fold(keys, loop.cursor.turn + first_turn), loop.cursor.position)
  token, logprob = draw(keys, logits, heat, top_k=top_k, top_p=top_p)
  return token, logprob, cache


def _write(loop, token, logprob, answer, reply, first_turn, turns, eos):
  """Writes the column and hands replies to the rows that ended a turn."""
  cursor, token, mark, ended = cursors.advance(
    loop.cursor, token, first_turn=first_turn, limits=turns, eos=eos
  )
  rows = loop.rows._replace(
    tokens=_put(loop.rows.tokens, loop.column, token),
    turn=_put(loop.rows.turn, loop.column, mark),
    logprob=_put(
      loop.rows.logprob, loop.column, jnp.where(mark >= 1, logprob, 0.0)
    ),
  )
  if len(turns) > 1:
    finished = cursor.turn + first_turn - 1
    cursor = cursors.take_reply(
      cursor, ended, reply(answer, rows, finished), len(turns)
    )
  return cursor, rows
