"""A rollout: the rows to be played, the rules, and what a step does to rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sitrain.models.decoder import Attend, for_decoding
from sitrain.rollout import cursor as cursors
from sitrain.rollout.cursor import Cursor, Reply
from sitrain.rollout.sample import draw
from sitrain.types import PAD, Episodes, Params, Problems, Task


class Game(NamedTuple):
  """What stays as it is: B = P * samples rows, problem by problem."""

  model: Any
  params: Params  # as decoding wants them
  problems: Problems
  start: Int[Array, " P"]  # the column of a prompt's first token
  keys: Key[Array, " B"]
  heat: Float[Array, " B"]
  samples: int
  reply: Reply
  turns: tuple[int, ...]
  first_turn: int
  eos: tuple[int, ...]
  filters: dict  # of draw
  width: int  # columns of a reply
  length: int  # columns of a row


def row_keys(keys: Key[Array, " P"], samples: int) -> Key[Array, " B"]:
  """One key per row: fold_in(key of its problem, number of the sample)."""
  fold = jax.vmap(jax.random.fold_in, (None, 0))
  return jax.vmap(fold, (0, None))(keys, jnp.arange(samples)).reshape(-1)


def reply_width(reply: Reply, problems: Problems) -> int:
  """Columns of a reply to these problems, which may be shapes alone."""

  def said(problems):
    prompt = problems.prompt
    number = jnp.arange(prompt.shape[0])
    blank = cursors.empty_rows(prompt, number, prompt.shape[1] + 1)
    return reply(problems.answer, blank, number)

  return jax.eval_shape(said, problems).shape[1]


def columns_of(task: Task, turns: tuple[int, ...]) -> tuple[int, int]:
  """Columns of a prompt of a task, and of all that may come behind it."""

  def one():
    if task.table == ():
      return task.problems(jax.random.key(0), 1)
    return jax.tree.map(lambda x: x[:1], task.table)

  problems = jax.eval_shape(one)
  slots = problems.prompt.shape[1]
  width = reply_width(task.reply, problems)
  return slots, cursors.limits_of(turns, 0, width) if turns else 0


def make(
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
) -> Game:
  """The game of these rows.

  `turns` holds the token limit of each turn; the first is numbered
  `first_turn`. `reply(answer [B A], episodes, turn [B])` is what a row reads
  when that turn has ended; a reply of PAD alone ends the episode. `temperature`
  is a number or one per row; 0 is greedy. `top_k` and `top_p` as `draw`.
  """
  prompt, rows = problems.prompt, keys.shape[0] * samples
  width = reply_width(reply, problems)
  return Game(
    model, for_decoding(params, model.dtype), problems,
    jnp.sum(prompt == PAD, axis=1), row_keys(keys, samples),
    jnp.broadcast_to(jnp.asarray(temperature, jnp.float32), (rows,)),
    samples, reply, turns, first_turn, eos, dict(top_k=top_k, top_p=top_p),
    width, cursors.limits_of(turns, prompt.shape[1], width),
  )


def next_token(
  game: Game,
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
  params = {"params": game.params}
  hidden, cache = game.model.apply(params, token, attend, cache, at)
  logits = game.model.apply(params, hidden[:, 0], method="logits")
  fold = jax.vmap(jax.random.fold_in)
  keys = fold(game.keys[number], cursor.turn + game.first_turn)
  keys = fold(keys, cursor.position)
  drawn, logprob = draw(keys, logits, game.heat[number], **game.filters)
  return drawn, logprob, cache


def write(
  game: Game,
  number: Int[Array, " N"],
  rows: Episodes,
  cursor: Cursor,
  drawn: Int[Array, " N"],
  logprob: Float[Array, " N"],
  put: Callable[[Array, Array], Array],
) -> tuple[Episodes, Cursor]:
  """Writes a column and hands replies to the rows that ended a turn.

  `put(values [N T], column [N])` writes it where each row has got to.
  """
  cursor, token, mark, ended = cursors.advance(
    cursor, drawn, first_turn=game.first_turn, limits=game.turns, eos=game.eos
  )
  rows = rows._replace(
    tokens=put(rows.tokens, token),
    turn=put(rows.turn, mark),
    logprob=put(rows.logprob, jnp.where(mark >= 1, logprob, 0.0)),
  )
  if len(game.turns) > 1:
    answer = game.problems.answer[number // game.samples]
    said = game.reply(answer, rows, cursor.turn + game.first_turn - 1)
    cursor = cursors.take_reply(cursor, ended, said, len(game.turns))
  return rows, cursor
