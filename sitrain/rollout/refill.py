"""Play many rows in a few slots: a row that ends makes room for the next."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from sitrain.rollout import cursor as cursors
from sitrain.rollout import game as games
from sitrain.rollout.ring import Slots, busy, take_step
from sitrain.rollout.turns import play_all, prefill
from sitrain.types import PAD, Episodes, Params, Problems

SHARE = 16  # slots are refilled when one in so many is free


class _Table(NamedTuple):
  """Slots and what waits at both sides of them."""

  slots: Slots
  taken: Int[Array, ""]  # rows that have had a slot
  first: Int[Array, ""]  # the first of the problems in `ready`
  ready: Any  # caches of their prompts
  played: Episodes  # all rows


def play(
  keys: Key[Array, " P"],
  model: Any,
  params: Params,
  problems: Problems,
  *,
  slots: int,
  **options: Any,
) -> Episodes:
  """The episodes of `turns.play`, of which `slots` are decoded at a time.

  Rows that have ended are replaced by waiting ones inside one program, so that
  a few long rows do not hold up many short ones, and the cache is that of
  `slots` rows. When none waits, the last rows go on in half of the slots, and
  then in an eighth. `reply` sees the rows in the slots, at any time of
  theirs. With 0 slots, or as many as rows, all are decoded at once. Options
  are those of `game.make`.
  """
  game = games.make(keys, model, params, problems, **options)
  count = game.keys.shape[0]
  if slots == 0 or slots >= count:
    return play_all(game)
  sizes = [n for n in (slots // 2, slots // 8) if n]
  few = [*sizes, 0]
  table = jax.lax.while_loop(
    lambda table: (table.taken < count) | (_busy(game, table) > few[0]),
    lambda table: _refill(game, _decode(game, table, few[0])),
    _begin(game, slots),
  )
  for size, left in zip(sizes, few[1:], strict=True):
    table = _decode(game, _move(game, table, size), left)
  start = jnp.repeat(game.start, game.samples)
  return cursors.left_align(_put_away(table), start)


def check_slots(slots: int) -> None:
  """Raises ValueError for a number of slots that means nothing."""
  if slots < 0:
    raise ValueError(
      f"slots={slots}: set it to how many rows are decoded at a time, or to 0 "
      "for all of them"
    )


def _begin(game, slots) -> _Table:
  """All slots are free, and all rows wait."""
  count, prompt = game.keys.shape[0], game.problems.prompt
  zero, zeros = jnp.zeros((), jnp.int32), jnp.zeros(slots, jnp.int32)
  cursor = cursors.begin(slots, game.width)

  def blank(rows):
    empty = jnp.full((rows, prompt.shape[1]), PAD, jnp.int32)
    problem = jnp.arange(rows) // game.samples
    return cursors.empty_rows(empty, problem, game.length)

  batch = _batch(game, slots)
  free = Slots(
    step=zero, number=zeros + count, birth=zeros, rows=blank(slots),
    cursor=cursor._replace(turn=zeros + len(game.turns)),
    cache=game.model.make_cache(slots, game.length - 1),
  )
  ready = game.model.make_cache(batch, prompt.shape[1] - 1)
  return _Table(free, zero, zero - batch, ready, blank(count))


def _batch(game, slots) -> int:
  """Rows that are taken at once, and problems that are read for them."""
  return min(max(1, slots // SHARE), game.start.shape[0])


def _busy(game, table) -> Int[Array, ""]:
  return jnp.sum(busy(game, table.slots))


def _decode(game, table, few) -> _Table:
  """Decodes until enough slots are free for those that wait.

  If none waits, it decodes until at most `few` are busy.
  """
  waiting, slots = game.keys.shape[0] - table.taken, table.slots
  count = slots.number.shape[0]
  batch = jnp.minimum(_batch(game, count), waiting)
  enough = jnp.where(waiting > 0, batch, count - few)
  return table._replace(slots=jax.lax.while_loop(
    lambda slots: jnp.sum(~busy(game, slots)) < enough,
    lambda slots: take_step(game, slots), slots,
  ))


def _put_away(table) -> Episodes:
  """All rows, with those in the slots as they are by now."""
  slots = table.slots
  put = lambda old, new: old.at[slots.number].set(new, mode="drop")
  return jax.tree.map(put, table.played, slots.rows)


def _move(game, table, size) -> _Table:
  """The busy rows in `size` slots."""
  slots, played = table.slots, _put_away(table)
  keep = jnp.argsort(~busy(game, slots), stable=True)[:size]
  step, *rows = slots
  rows = jax.tree.map(lambda x: x[keep], rows)
  return table._replace(slots=Slots(step, *rows), played=played)


def _refill(game, table) -> _Table:
  """Puts rows that have ended away, and waiting ones in their place."""
  slots, played = table.slots, _put_away(table)
  total, count = game.keys.shape[0], slots.number.shape[0]
  batch = _batch(game, count)
  wanted = jnp.minimum(table.taken, total - 1) // game.samples
  first, ready = jax.lax.cond(
    wanted >= table.first + batch,
    lambda: _prefill(game, wanted, batch),
    lambda: (table.first, table.ready),
  )
  # The n-th free slot gets the n-th of the rows that wait, if that is ready.
  free, order = ~busy(game, slots), jnp.arange(batch)
  row = table.taken + order
  stop = jnp.minimum(total, (first + batch) * game.samples)
  fits = (order < jnp.sum(free)) & (row < stop)
  place = jnp.argsort(~free, stable=True)[:batch]
  place = jnp.where(fits, place, count)
  source = jnp.clip(row // game.samples - first, 0, batch - 1)
  # Prompts are the first columns, so they are a corner of what a slot holds.
  put = lambda old, new: old.at[(place, *map(slice, new.shape[1:]))].set(
    new[source], mode="drop"
  )
  slots = slots._replace(
    number=slots.number.at[place].set(row, mode="drop"),
    cache=jax.tree.map(put, slots.cache, ready),
  )
  new = jnp.zeros(count, bool).at[place].set(True, mode="drop")
  slots = _start(game, slots, new)
  return _Table(slots, table.taken + jnp.sum(fits), first, ready, played)


def _start(game, slots, new) -> Slots:
  """Slots that are `new` begin with the prompts of their rows."""
  problem = jnp.minimum(slots.number, game.keys.shape[0] - 1) // game.samples
  rows = cursors.empty_rows(
    game.problems.prompt[problem], problem, game.length
  )
  cursor = cursors.begin(new.shape[0], game.width)
  pick = lambda fresh, old: jnp.where(
    new.reshape(-1, *[1] * (old.ndim - 1)), fresh, old
  )
  return slots._replace(
    birth=jnp.where(new, slots.step, slots.birth),
    rows=jax.tree.map(pick, rows, slots.rows),
    cursor=jax.tree.map(pick, cursor, slots.cursor),
  )


def _prefill(game, first, batch):
  """The caches of `batch` prompts from problem `first` on, or of the last."""
  first = jnp.minimum(first, game.start.shape[0] - batch)
  cut = lambda x: jax.lax.dynamic_slice_in_dim(x, first, batch)
  prompt, start = cut(game.problems.prompt), cut(game.start)
  return first, prefill(game.model, game.params, prompt, start)
