"""One step of slots whose rows began at different times.

The cache of a slot holds the prompt of its row in the first columns and behind
them a ring, as long as all that a row may write. In step t every slot writes
column t % ring of it, whenever its row began, so nothing is ever moved: what a
row sees, and where that stands, follows from the step in which it began.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sitrain.models.decoder import Attend
from sitrain.rollout import cursor as cursors
from sitrain.rollout.cursor import Cursor, Reply
from sitrain.rollout.sample import draw
from sitrain.types import Episodes, Params, Problems


class Game(NamedTuple):
  """What stays as it is: the rows to be played, and by which rules."""

  model: Any
  params: Params
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
  ring: int  # columns


class Slots(NamedTuple):
  """The rows that are being played; those that have ended wait here."""

  step: Int[Array, ""]  # steps done
  number: Int[Array, " N"]  # of the row in each slot; B: of none
  birth: Int[Array, " N"]  # the step in which it began
  rows: Episodes  # [N T]
  cursor: Cursor
  cache: Any


def busy(game: Game, slots: Slots) -> Bool[Array, " N"]:
  """Slots whose row still has something to write."""
  return cursors.live(slots.cursor, len(game.turns))


def attend_ring(
  start: Int[Array, " B"],
  birth: Int[Array, " B"],
  step: Int[Array, ""],
  prompt: int,
  ring: int,
) -> Attend:
  """Attention of one token to `prompt` columns and a ring behind them.

  `start [B]` is the column of a row's first token, and birth % ring that of the
  ring which it wrote first, `birth [B]` being the step of that. The token
  stands at column step % ring.
  """
  at = jnp.arange(prompt, dtype=jnp.int32)
  turned = jnp.arange(ring, dtype=jnp.int32) - birth[:, None]
  key = jnp.concatenate(
    [jnp.broadcast_to(at, (start.shape[0], prompt)), prompt + turned % ring],
    axis=1,
  )
  query = prompt + (step - birth)[:, None]
  visible = (key >= start[:, None]) & (key <= query)
  return Attend(
    jnp.maximum(query - start[:, None], 0),
    jnp.maximum(key - start[:, None], 0),
    visible[:, None],
  )


def take_step(game: Game, slots: Slots) -> Slots:
  """Every slot reads its last token and writes the next."""
  number = jnp.minimum(slots.number, game.keys.shape[0] - 1)
  length = game.problems.prompt.shape[1]
  column = length + slots.step - slots.birth
  token, logprob, cache = _next_token(game, slots, number, column - 1)
  cursor, token, mark, ended = cursors.advance(
    slots.cursor, token, first_turn=game.first_turn, limits=game.turns,
    eos=game.eos,
  )
  here = jnp.arange(slots.rows.tokens.shape[1]) == column[:, None]
  put = lambda old, new: jnp.where(here, new[:, None], old)
  rows = slots.rows._replace(
    tokens=put(slots.rows.tokens, token),
    turn=put(slots.rows.turn, mark),
    logprob=put(slots.rows.logprob, jnp.where(mark >= 1, logprob, 0.0)),
  )
  if len(game.turns) > 1:
    answer = game.problems.answer[number // game.samples]
    said = game.reply(answer, rows, cursor.turn + game.first_turn - 1)
    cursor = cursors.take_reply(cursor, ended, said, len(game.turns))
  return slots._replace(
    step=slots.step + 1, rows=rows, cursor=cursor, cache=cache
  )


def _next_token(game, slots, number, last):
  """Reads column `last [N]` of the rows and draws what may come next."""
  prompt = game.problems.prompt.shape[1] - 1
  attend = attend_ring(
    game.start[number // game.samples], slots.birth, slots.step, prompt,
    game.ring,
  )
  hidden, cache = game.model.apply(
    {"params": game.params},
    jnp.take_along_axis(slots.rows.tokens, last[:, None], axis=1),
    attend, slots.cache, prompt + slots.step % game.ring,
  )
  logits = game.model.apply(
    {"params": game.params}, hidden[:, 0], method="logits"
  )
  fold = jax.vmap(jax.random.fold_in)
  keys = fold(game.keys[number], slots.cursor.turn + game.first_turn)
  keys = fold(keys, slots.cursor.position)
  token, logprob = draw(keys, logits, game.heat[number], **game.filters)
  return token, logprob, cache
