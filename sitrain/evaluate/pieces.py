"""Episodes of an evaluation in slots, as their problems end."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from sitrain.evaluate.player import Played, Player, part_of, part_size
from sitrain.rollout.pieces import Pieces
from sitrain.types import Key, Params, Problems

STEPS = 16  # decoded in a call: 8 s for 40 rows of a 135M model on two cores


class Ended(NamedTuple):
  """What one call has brought."""

  problems: Int[np.ndarray, " N"]  # those that have ended in it
  played: Played  # their episodes, samples of a problem one after the other
  tokens: int  # that the policy wrote in it, of all rows; 0 for the first call


def play_rows(
  pieces: Pieces,
  player: Player,
  params: Params,
  key: Key,
  posed: Problems,
  rows: Int[np.ndarray, " N"],
  *,
  batch: int,
  temperature: float,
  groups: int,
) -> Iterator[Ended]:
  """`player.play_rows`, some steps at a time.

  The first call makes only one step, so that the time of compiling is not
  counted as decoding. `params` are those of `pieces.prepare`, `pieces` is
  compiled, and `groups` is the number of device groups of its mesh. All parts
  have one shape, also where few `rows` are left of them.
  """
  size = part_size(player.samples, batch, len(posed.prompt))
  place = places(len(rows), max(size, len(rows)), groups)
  filled = rows[np.maximum(place, 0)]
  keys, part = part_of(player, key, posed, filled, batch=batch)
  given = keys, (params, jnp.float32(temperature)), part
  table, steps = pieces.begin(*given, place >= 0), 1
  by_problem = lambda x: np.asarray(x).reshape(len(place), -1)
  open_, written = place >= 0, 0
  while open_.any():
    table, now = pieces.go_on(*given, table, np.int32(steps))
    ended, tokens = jax.device_get((now.ended, now.tokens))
    new = open_ & by_problem(ended).all(axis=1)
    total = int(by_problem(tokens)[place >= 0].sum())
    count = total - written if steps > 1 else 0
    yield Ended(filled[new], _played(player, part, now, new), count)
    open_, written, steps = open_ & ~new, total, STEPS


def places(count: int, size: int, groups: int) -> Int[np.ndarray, " P"]:
  """Which of `count` problems stands at each place of a table; -1: none does.

  The table has `size` places, or a few more, so that they divide over the
  groups. Problems, sorted by length, are dealt out in turn, so that each group
  gets as many long ones; they fill the last places of their group.
  """
  found = np.full((groups, -(-size // groups)), -1)
  for number, row in enumerate(found):
    own = np.arange(number, count, groups)
    row[len(row) - len(own) :] = own
  return found.reshape(-1)


def _played(player, part, now, new) -> Played:
  """The episodes of the problems `new [P]`, and their judgement."""
  if not new.any():
    return Played(np.zeros((0, 0), int), np.zeros((0, 0), int), ())
  chosen, each = np.flatnonzero(new), np.arange(player.samples)
  count = len(chosen)
  # Judges that are compiled get powers of two of problems.
  size = 1 << (count - 1).bit_length()
  chosen = np.pad(chosen, (0, size - count), mode="edge")
  own = (chosen[:, None] * player.samples + each).reshape(-1)
  rows = jax.tree.map(lambda x: np.asarray(x)[own], now.rows)
  rows = rows._replace(problem=np.repeat(np.arange(size), player.samples))
  judged = player.judge(jax.tree.map(lambda x: x[chosen], part), rows)
  found = jax.device_get(Played(rows.tokens, rows.turn, judged))
  return jax.tree.map(lambda x: x[: count * player.samples], found)
