"""One step of slots whose rows began at different times.

The cache of a slot holds the prompt of its row in the first columns and behind
them a ring, as long as all that a row may write. In step t every slot writes
column t % ring of it, whenever its row began, so nothing is ever moved: what a
row sees, and where that stands, follows from the step in which it began.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from sitrain.models.decoder import Attend
from sitrain.rollout import cursor as cursors
from sitrain.rollout import game as games
from sitrain.rollout.cursor import Cursor
from sitrain.rollout.game import Game
from sitrain.types import Episodes


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
  prompt = game.problems.prompt.shape[1]
  column, ring = prompt + slots.step - slots.birth, game.length - prompt
  attend = attend_ring(
    game.start[number // game.samples], slots.birth, slots.step, prompt - 1,
    ring,
  )
  token = jnp.take_along_axis(slots.rows.tokens, column[:, None] - 1, axis=1)
  drawn, logprob, cache = games.next_token(
    game, number, slots.cursor, token, attend, slots.cache,
    prompt - 1 + slots.step % ring,
  )
  here = jnp.arange(game.length) == column[:, None]
  rows, cursor = games.write(
    game, number, slots.rows, slots.cursor, drawn, logprob,
    lambda old, new: jnp.where(here, new[:, None], old),
  )
  return slots._replace(
    step=slots.step + 1, rows=rows, cursor=cursor, cache=cache
  )
