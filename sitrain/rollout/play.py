"""A rollout: from problems, or rows that hold text already, to episodes.

In every step each row reads its last token and writes the next column: a token
that it samples, the next token of the reply that it was given, or PAD once it
is done. One loop serves all turns of all rows, and no row waits for another.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sitrain.models.decoder import Attend, sees_cache
from sitrain.rollout import contexts
from sitrain.rollout.caches import cache_lengths, grown, prefill
from sitrain.rollout.sample import draw
from sitrain.tasks.rows import problem_shape
from sitrain.types import (
  GIVEN,
  PAD,
  ROOT,
  Episodes,
  Params,
  Problems,
  Reply,
  Task,
)

Replier = Callable[[Array, Episodes, Array], Reply]  # Task.reply


class Rollout(NamedTuple):
  """What does not change: P prefixes, and how B = P * samples continue them."""

  model: Any
  params: Params  # as decoding wants them
  prefix: Episodes  # [P S], with their padding at the start
  start: Int[Array, " P"]  # the column of a prefix's first token
  live: Bool[Array, " P"]  # False: it is not continued
  answer: Int[Array, "P A"]
  keys: Key[Array, " B"]
  temperature: Float[Array, " B"]
  samples: int
  reply: Replier
  turns: tuple[int, ...]
  first_turn: int
  eos: tuple[int, ...]
  filters: dict[str, Any]  # of draw
  reply_width: int
  length: int  # columns of a row


class Cursor(NamedTuple):
  """Where each row stands."""

  turn: Int[Array, " B"]  # turns ended; the row is done when all are
  position: Int[Array, " B"]  # tokens written in the turn after those
  reply: Int[Array, "B F+1"]  # what is read before that turn; the last is PAD
  read: Int[Array, " B"]  # reply tokens already written


def play(
  keys: Key[Array, " P"],
  model: Any,
  params: Params,
  problems: Problems,
  **options: Any,
) -> Episodes:
  """Samples episodes: B = P * samples rows, problem by problem.

  Row b belongs to problem b // samples. Options are those of `play_on`.
  """
  prompts = contexts.begin(problems, 1)
  episodes = play_on(keys, model, params, problems, prompts, **options)
  return episodes._replace(parent=jnp.full_like(episodes.parent, ROOT))


def play_on(
  keys: Key[Array, " P"],
  model: Any,
  params: Params,
  problems: Problems,
  episodes: Episodes,
  *,
  slots: int = 0,
  **options: Any,
) -> Episodes:
  """Continues rows that hold text already: P rows become P * samples.

  What they hold keeps its marks and log-probabilities; the samples of a row
  share the cache of it. The draw of a token is a function of (key of the row
  that is continued, sample, turn, position in the turn), so it depends on no
  other row, and the log-probability of a token is what `token_scores` gives.

  Args:
    keys: one for each row that is continued.
    model, params: the decoder; parameters are cast to its dtype here.
    problems: those that the rows answer.
    episodes: the rows [P T], each of one path.
    slots: rows that are decoded at a time, see rollout/refill.py; 0: all.
    samples: how often each is continued.
    reply: `Task.reply`: what a row reads when a turn has ended and others
      follow. It may be called for any row at any time, and must not look at
      columns.
    turns: the token limit of each turn.
    eos: tokens that end a turn.
    temperature: one number or one per row; 0 is greedy.
    first_turn: the number of the first turn played.
    live: which rows are continued; the others are returned as they are.
    top_k, top_p: as in `draw`.

  Returns rows [P * samples, T + turns and replies], from column 0 on: row b has
  parent b // samples and the problem of that. Raises ValueError for keys of
  another number than rows, for no turn, and for slots below 0.
  """
  check_slots(slots)
  rollout = rollout_of(
    keys, model, model.for_decoding(params), problems, episodes, **options
  )
  if 0 < slots < rollout.keys.shape[0]:
    # Imported here, as that file is made of the steps below.
    from sitrain.rollout.refill import play_in_slots

    return play_in_slots(rollout, slots)
  return play_together(rollout)


def rollout_of(
  keys: Key[Array, " P"],
  model: Any,
  params: Params,
  problems: Problems,
  episodes: Episodes,
  *,
  samples: int,
  reply: Replier,
  turns: tuple[int, ...],
  eos: tuple[int, ...],
  temperature: float | Float[Array, ""] | Float[Array, " B"],
  first_turn: int = 1,
  live: bool | Bool[Array, ""] | Bool[Array, " P"] = True,
  top_k: int = 0,
  top_p: float = 1.0,
) -> Rollout:
  """How `play_on` continues rows; `params` are as decoding wants them.

  Raises ValueError for keys of another number than rows, and for no turn.
  """
  count, prefix = keys.shape[0], contexts.align_right(episodes)
  if count != episodes.problem.shape[0] or not turns:
    raise ValueError(
      f"turns={turns} of {episodes.problem.shape[0]} rows with {count} keys: "
      "give the limit of one turn at least, and a key for each row"
    )
  width = reply_width(reply, problems)
  return Rollout(
    model=model,
    params=params,
    prefix=prefix._replace(parent=jnp.arange(count, dtype=jnp.int32)),
    start=jnp.argmax(prefix.turn != PAD, axis=1),
    live=jnp.broadcast_to(jnp.asarray(live), (count,)),
    answer=problems.answer[episodes.problem],
    keys=row_keys(keys, samples),
    temperature=jnp.broadcast_to(
      jnp.asarray(temperature, jnp.float32), (count * samples,)
    ),
    samples=samples,
    reply=reply,
    turns=tuple(turns),
    first_turn=first_turn,
    eos=eos,
    filters=dict(top_k=top_k, top_p=top_p),
    reply_width=width,
    length=row_length(prefix.tokens.shape[1], turns, width),
  )


def check_slots(slots: int) -> None:
  """Raises ValueError for a number of slots that means nothing."""
  if slots < 0:
    raise ValueError(
      f"slots={slots}: set it to how many rows are decoded at a time, or to 0 "
      "for all of them"
    )


def row_keys(keys: Key[Array, " P"], samples: int) -> Key[Array, " B"]:
  """One key per row: fold_in(key of what it continues, number of sample)."""
  fold = jax.vmap(jax.random.fold_in, (None, 0))
  return jax.vmap(fold, (0, None))(keys, jnp.arange(samples)).reshape(-1)


def reply_width(reply: Replier, problems: Problems) -> int:
  """Columns of a reply; ValueError where what comes back is no Reply.

  A reply that the host writes says so itself, see by_turn.py.
  """
  if hasattr(reply, "columns"):
    return reply.columns

  def first(problems):
    rows = contexts.begin(problems, 1)
    return reply(problems.answer, rows, jnp.ones_like(rows.problem))

  answered = jax.eval_shape(first, problems)
  if not isinstance(answered, Reply):
    raise ValueError(
      f"reply: returned {type(answered).__name__}, give Reply(tokens, done)"
    )
  return answered.tokens.shape[1]


def row_length(prefix: int, turns: tuple[int, ...], reply: int) -> int:
  """Columns of a row: prefix, all turns at their limits, replies between."""
  return prefix + sum(turns) + (len(turns) - 1) * reply


def columns_of(task: Task, turns: tuple[int, ...]) -> tuple[int, int]:
  """Columns of a prompt of a task, and of all that may follow it."""
  problems = problem_shape(task)
  width = reply_width(task.reply, problems)
  return problems.prompt.shape[1], row_length(0, turns, width) if turns else 0


class _Loop(NamedTuple):
  column: Int[Array, ""]  # the column to be written next
  rows: Episodes
  cursor: Cursor
  cache: Any


def play_together(rollout: Rollout) -> Episodes:
  """Decodes all rows at once, until the last is done.

  The samples of a prefix share its cache. What is written goes to another,
  which serves all turns and grows by `cache_lengths`.
  """
  width, count = rollout.prefix.tokens.shape[1], rollout.keys.shape[0]
  repeat = lambda x: jnp.repeat(x, rollout.samples, axis=0)
  start, rows = repeat(rollout.start), jax.tree.map(repeat, rollout.prefix)
  cache, prefix_width = prefill(
    rollout.model, rollout.params, rollout.prefix.tokens, rollout.start
  ), 0
  prefix_cache = ((),) * len(cache)
  if rollout.samples > 1 and width > 1:
    prefix_cache, prefix_width = cache, width - 1
    cache = rollout.model.make_cache(count, 0)
  loop = _Loop(
    jnp.asarray(width, jnp.int32),
    contexts.widen(rows, rollout.length),
    start_cursor(rollout, repeat(rollout.live)),
    cache,
  )

  def more(size, loop):
    room = loop.column <= prefix_width + size
    return room & jnp.any(unfinished(rollout, loop.cursor))

  def step(size, loop):
    """All rows read a column and write the next."""
    at, put = loop.column - 1, functools.partial(_put, loop.column)
    token = jax.lax.dynamic_slice_in_dim(loop.rows.tokens, at, 1, axis=1)
    drawn, logprob, cache = next_token(
      rollout, jnp.arange(count), loop.cursor, token,
      sees_cache(start, at, 1, prefix_width + size),
      tuple(map(operator.add, loop.cache, prefix_cache)), at - prefix_width,
    )
    rows, cursor = write_column(
      rollout, jnp.arange(count), loop.rows, loop.cursor, drawn, logprob, put
    )
    return _Loop(loop.column + 1, rows, cursor, cache)

  # The token of the last column is never read, so it needs no room.
  first, last = width - 1 - prefix_width, rollout.length - 1 - prefix_width
  for size in cache_lengths(first, last):
    loop = loop._replace(cache=grown(rollout.model, loop.cache, count, size))
    loop = jax.lax.while_loop(
      functools.partial(more, size), functools.partial(step, size), loop
    )
  return contexts.align_left(loop.rows)


def _put(column, values, update):
  """values [B T] with update [B] in one column."""
  return jax.lax.dynamic_update_slice(
    values, update[:, None].astype(values.dtype), (0, column)
  )


def start_cursor(rollout: Rollout, live: Bool[Array, " N"]) -> Cursor:
  """Rows at the start of the first turn played, or done where not `live`."""
  zeros = jnp.zeros(live.shape, jnp.int32)
  return Cursor(
    turn=jnp.where(live, zeros, len(rollout.turns)),
    position=zeros,
    reply=jnp.full((*live.shape, rollout.reply_width + 1), PAD, jnp.int32),
    read=zeros,
  )


def unfinished(rollout: Rollout, cursor: Cursor) -> Bool[Array, " N"]:
  """Rows that still have something to write."""
  return cursor.turn < len(rollout.turns)


def next_token(
  rollout: Rollout,
  number: Int[Array, " N"],
  cursor: Cursor,
  token: Int[Array, "N 1"],
  attend: Attend,
  cache: Any,
  at: int | Int[Array, ""],
) -> tuple[Int[Array, " N"], Float[Array, " N"], Any]:
  """Reads the last token of rows `number` and draws what may come next.

  It stands at column `at` of the cache. Returns tokens, their log-probabilities
  and the cache.
  """
  params = {"params": rollout.params}
  hidden, cache = rollout.model.apply(params, token, attend, cache, at)
  logits = rollout.model.apply(params, hidden[:, 0], method="logits")
  fold = jax.vmap(jax.random.fold_in)
  keys = fold(rollout.keys[number], cursor.turn + rollout.first_turn)
  keys = fold(keys, cursor.position)
  temperature = rollout.temperature[number]
  drawn, logprob = draw(keys, logits, temperature, **rollout.filters)
  return drawn, logprob, cache


def write_column(
  rollout: Rollout,
  number: Int[Array, " N"],
  rows: Episodes,
  cursor: Cursor,
  drawn: Int[Array, " N"],
  logprob: Float[Array, " N"],
  put: Callable[[Array, Array], Array],
) -> tuple[Episodes, Cursor]:
  """Writes a column, and hands replies to the rows that ended a turn.

  `put(values [N T], column [N])` writes it where each row has got to. A turn
  ends with an end token or at its limit.
  """
  live = unfinished(rollout, cursor)
  at = cursor.read[:, None]
  given = jnp.take_along_axis(cursor.reply, at, axis=1)[:, 0]
  reading = live & (given != PAD)
  writing = live & ~reading
  token = jnp.where(reading, given, jnp.where(writing, drawn, PAD))
  mark = jnp.where(writing, cursor.turn + rollout.first_turn, PAD)
  mark = jnp.where(reading, GIVEN, mark)
  rows = rows._replace(
    tokens=put(rows.tokens, token),
    turn=put(rows.turn, mark),
    logprob=put(rows.logprob, jnp.where(writing, logprob, 0.0)),
  )
  turn = jnp.minimum(cursor.turn, len(rollout.turns) - 1)
  position = cursor.position + writing
  at_limit = position >= jnp.asarray(rollout.turns)[turn]
  at_end = jnp.isin(token, jnp.asarray(rollout.eos, jnp.int32))
  ended = writing & (at_end | at_limit)
  cursor = cursor._replace(
    turn=cursor.turn + ended,
    position=jnp.where(ended, 0, position),
    read=cursor.read + reading,
  )
  if len(rollout.turns) > 1:
    answer = rollout.answer[number // rollout.samples]
    last = cursor.turn + rollout.first_turn - 1
    reply = rollout.reply(answer, rows, last)
    tokens = jnp.pad(reply.tokens, ((0, 0), (0, 1)), constant_values=PAD)
    cursor = cursor._replace(
      turn=jnp.where(ended & reply.done, len(rollout.turns), cursor.turn),
      reply=jnp.where(ended[:, None], tokens, cursor.reply),
      read=jnp.where(ended, 0, cursor.read),
    )
  return rows, cursor
