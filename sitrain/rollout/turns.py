"""Play all turns of all rows in one loop."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sitrain.models.decoder import attend_cache, unstack
from sitrain.rollout import cursor as cursors
from sitrain.rollout.cursor import Cursor, Reply
from sitrain.rollout.sample import draw
from sitrain.types import PAD, Episodes, Params, Problems


class _Loop(NamedTuple):
  column: Int[Array, ""]  # the column to be written next
  rows: Episodes
  cursor: Cursor
  cache: Any


def row_keys(keys: Key[Array, " P"], samples: int) -> Key[Array, " B"]:
  """One key per row: fold_in(key of its problem, number of the sample)."""
  fold = jax.vmap(jax.random.fold_in, (None, 0))
  return jax.vmap(fold, (0, None))(keys, jnp.arange(samples)).reshape(-1)


def _prefill(model, params, prompt, start, length, samples):
  """Caches all but the last prompt token, once a problem."""
  cache = model.make_cache(prompt.shape[0], length)
  width = prompt.shape[1] - 1
  if width:
    attend = attend_cache(start, 0, width, length)
    _, cache = model.apply(
      {"params": params}, prompt[:, :width], attend, cache, 0
    )
  return jax.tree.map(lambda x: jnp.repeat(x, samples, axis=0), cache)


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

  One `while_loop` serves all turns; it stops when every row is done. The cache
  of a turn serves the next. `turns` holds the token limit of each turn; the
  first is numbered `first_turn`. `reply(answer [B A], episodes, turn [B])` is
  what a row reads when that turn has ended; a reply of PAD alone ends the
  episode. The draw of a token is a function of (key of its problem, sample,
  turn, position in the turn), so it depends on no other row. `temperature` is
  a number or one per row; 0 is greedy. Rows come back at column 0.
  """
  start = jnp.sum(problems.prompt == PAD, axis=1)
  answer = jnp.repeat(problems.answer, samples, axis=0)
  prompt = jnp.repeat(problems.prompt, samples, axis=0)
  problem = jnp.repeat(jnp.arange(start.shape[0]), samples)
  width = _reply_width(reply, answer, prompt, problem)
  length = cursors.limits_of(turns, prompt.shape[1], width)
  params = unstack(params)
  cache = _prefill(model, params, problems.prompt, start, length, samples)
  start = jnp.repeat(start, samples)
  keys = row_keys(keys, samples)
  heat = jnp.broadcast_to(jnp.asarray(temperature, jnp.float32), start.shape)

  def more(loop):
    return jnp.any(cursors.live(loop.cursor, len(turns)))

  def body(loop):
    token, logprob, cache = _next_token(
      model, params, loop, keys, start, heat, first_turn, top_k, top_p
    )
    cursor, rows = _write(
      loop, token, logprob, answer, reply, first_turn, turns, eos
    )
    return _Loop(loop.column + 1, rows, cursor, cache)

  loop = _Loop(
    jnp.asarray(prompt.shape[1], jnp.int32),
    cursors.empty_rows(prompt, problem, length),
    cursors.begin(prompt.shape[0], width),
    cache,
  )
  loop = jax.lax.while_loop(more, body, loop)
  return cursors.left_align(loop.rows, start)


def _reply_width(reply, answer, prompt, problem):
  rows = cursors.empty_rows(prompt, problem, prompt.shape[1] + 1)
  return jax.eval_shape(reply, answer, rows, problem).shape[1]


def _next_token(
  model, params, loop, keys, start, heat, first_turn, top_k, top_p
):
  """Reads the column before the cursor and draws what may come next."""
  at = loop.column - 1
  length = loop.rows.tokens.shape[1]
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
