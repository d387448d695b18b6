"""Plays many rows in a few slots: a waiting row replaces one that has ended.

The cache of a slot has the prefix of its row in its first columns, then a ring
with a column for every token that a row may write. In step t every slot writes
column t % ring, so nothing is moved: the step in which a row began determines
the columns that it sees.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from sitrain.models.decoder import Attend
from sitrain.rollout import contexts
from sitrain.rollout.caches import prefill
from sitrain.rollout.play import (
  Cursor,
  Rollout,
  next_token,
  start_cursor,
  unfinished,
  write_column,
)
from sitrain.types import Episodes

SHARE = 16  # slots are refilled when one in so many is free
NEVER = jnp.iinfo(jnp.int32).max  # a step that no rollout comes to


class Slots(NamedTuple):
  """The rows that are being played; those that have ended wait here."""

  step: Int[Array, ""]  # steps done
  number: Int[Array, " N"]  # of the row in each slot; B: of none
  birth: Int[Array, " N"]  # the step in which it began
  rows: Episodes  # [N T]
  cursor: Cursor
  cache: Any


class Table(NamedTuple):
  """Slots and what waits at both sides of them."""

  slots: Slots
  taken: Int[Array, ""]  # rows that have had a slot
  first: Int[Array, ""]  # the first of the prefixes in `ready`
  ready: Any  # caches of those prefixes
  played: Episodes  # all rows


def play_in_slots(rollout: Rollout, slots: int) -> Episodes:
  """The episodes of `play.play_together`, of which `slots` are decoded at once.

  Rows that have ended are replaced by waiting ones inside one program, so that
  a few long rows do not delay many short ones, and the cache is that of `slots`
  rows. When no row waits, the last rows continue in half of the slots, and then
  in an eighth. `reply` gets the rows in the slots, in any state.
  """
  table = _fill(rollout, begin(rollout, slots), NEVER)
  return episodes_of(_drain(rollout, table, NEVER))


def go_on(rollout: Rollout, table: Table, steps: Int[Array, ""]) -> Table:
  """`steps` more steps of `play_in_slots`, or fewer if the last row ends."""
  last = table.slots.step + steps
  more = lambda table: (table.slots.step < last) & (_busy(rollout, table) > 0)
  # A loop, so that calls without a step left for it copy no caches.
  return jax.lax.while_loop(
    more, lambda table: _drain(rollout, table, last),
    _fill(rollout, table, last),
  )


def ended(rollout: Rollout, table: Table) -> Bool[Array, " B"]:
  """Rows to which nothing more will be written."""
  row = jnp.arange(rollout.keys.shape[0])
  busy = unfinished(rollout, table.slots.cursor)
  return (row < table.taken).at[table.slots.number].min(~busy, mode="drop")


def episodes_of(table: Table) -> Episodes:
  """All rows as they are by now, from column 0 on."""
  return contexts.align_left(_put_away(table))


def _few(slots: int) -> list[int]:
  """In how many slots the last rows continue."""
  return [n for n in (slots // 2, slots // 8) if n]


def _fill(rollout, table, last) -> Table:
  """Decodes and refills, until the last rows fit half of the slots."""
  count = rollout.keys.shape[0]
  few = [*_few(table.slots.number.shape[0]), 0][0]
  more = lambda table: (table.taken < count) | (_busy(rollout, table) > few)
  return jax.lax.while_loop(
    lambda table: (table.slots.step < last) & more(table),
    lambda table: _refill(rollout, _decode(rollout, table, few, last)), table,
  )


def _drain(rollout, table, last) -> Table:
  """Decodes the last rows, until none is busy."""
  sizes = _few(table.slots.number.shape[0])
  for size, left in zip(sizes, [*sizes, 0][1:], strict=True):
    table = _decode_in(rollout, table, size, left, last)
  return table


def _decode_in(rollout, table, size, few, last) -> Table:
  """`_decode` of the busy slots alone, of which there are at most `size`."""
  done = ~unfinished(rollout, table.slots.cursor)
  keep = jnp.argsort(done, stable=True)[:size]
  step, *every = table.slots
  some = Slots(step, *jax.tree.map(lambda x: x[keep], every))
  step, *some = _decode(rollout, table._replace(slots=some), few, last).slots
  put = lambda old, new: old.at[keep].set(new, unique_indices=True)
  return table._replace(slots=Slots(step, *jax.tree.map(put, every, some)))


def begin(rollout: Rollout, slots: int) -> Table:
  """All slots are free, and all rows wait."""
  count, prefix = rollout.keys.shape[0], rollout.prefix
  zero, zeros = jnp.zeros((), jnp.int32), jnp.zeros(slots, jnp.int32)

  def blank(rows):
    empty = lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype)
    return contexts.widen(jax.tree.map(empty, prefix), rollout.length)

  batch = _batch(rollout, slots)
  free = Slots(
    step=zero, number=zeros + count, birth=zeros, rows=blank(slots),
    cursor=start_cursor(rollout, jnp.zeros(slots, bool)),
    cache=rollout.model.make_cache(slots, rollout.length - 1),
  )
  ready = rollout.model.make_cache(batch, prefix.tokens.shape[1] - 1)
  return Table(free, zero, zero - batch, ready, blank(count))


def _batch(rollout, slots) -> int:
  """Rows that are taken at once, and prefixes that are read for them."""
  return min(max(1, slots // SHARE), rollout.start.shape[0])


def _busy(rollout, table) -> Int[Array, ""]:
  return jnp.sum(unfinished(rollout, table.slots.cursor))


def _decode(rollout, table, few, last) -> Table:
  """Decodes until enough slots are free for those that wait, or step `last`.

  If none waits, it decodes until at most `few` are busy.
  """
  slots = table.slots
  waiting, count = rollout.keys.shape[0] - table.taken, slots.number.shape[0]
  enough = jnp.where(waiting > 0, _wanted(rollout, table), count - few)
  free = lambda slots: jnp.sum(~unfinished(rollout, slots.cursor))
  return table._replace(slots=jax.lax.while_loop(
    lambda slots: (slots.step < last) & (free(slots) < enough),
    lambda slots: take_step(rollout, slots), slots,
  ))


def _wanted(rollout, table) -> Int[Array, ""]:
  """How many slots must be free before waiting rows take them."""
  batch = _batch(rollout, table.slots.number.shape[0])
  return jnp.minimum(batch, rollout.keys.shape[0] - table.taken)


def take_step(rollout: Rollout, slots: Slots) -> Slots:
  """Every slot reads its last token and writes the next."""
  number = jnp.minimum(slots.number, rollout.keys.shape[0] - 1)
  prefix = rollout.prefix.tokens.shape[1]
  column, ring = prefix + slots.step - slots.birth, rollout.length - prefix
  attend = sees_ring(
    rollout.start[number // rollout.samples], slots.birth, slots.step,
    prefix - 1, ring,
  )
  token = jnp.take_along_axis(slots.rows.tokens, column[:, None] - 1, axis=1)
  drawn, logprob, cache = next_token(
    rollout, number, slots.cursor, token, attend, slots.cache,
    prefix - 1 + slots.step % ring,
  )
  here = jnp.arange(rollout.length) == column[:, None]
  rows, cursor = write_column(
    rollout, number, slots.rows, slots.cursor, drawn, logprob,
    lambda old, new: jnp.where(here, new[:, None], old),
  )
  return slots._replace(
    step=slots.step + 1, rows=rows, cursor=cursor, cache=cache
  )


def sees_ring(
  start: Int[Array, " B"],
  birth: Int[Array, " B"],
  step: Int[Array, ""],
  prefix: int,
  ring: int,
) -> Attend:
  """Attention of one token to `prefix` columns and a ring after them.

  `start [B]` is the column of a row's first token, and birth % ring that of the
  ring which it wrote first, `birth [B]` being the step of that. The token
  stands at column step % ring.
  """
  at = jnp.arange(prefix, dtype=jnp.int32)
  turned = jnp.arange(ring, dtype=jnp.int32) - birth[:, None]
  key = jnp.concatenate(
    [jnp.broadcast_to(at, (start.shape[0], prefix)), prefix + turned % ring],
    axis=1,
  )
  query = prefix + (step - birth)[:, None]
  visible = (key >= start[:, None]) & (key <= query)
  return Attend(
    jnp.maximum(query - start[:, None], 0),
    jnp.maximum(key - start[:, None], 0),
    visible[:, None],
  )


def _put_away(table) -> Episodes:
  """All rows, with those in the slots as they are by now."""
  slots = table.slots
  put = lambda old, new: old.at[slots.number].set(new, mode="drop")
  return jax.tree.map(put, table.played, slots.rows)


def _refill(rollout, table) -> Table:
  """Puts rows that have ended away, and waiting ones in their place."""
  slots, played = table.slots, _put_away(table)
  total, count = rollout.keys.shape[0], slots.number.shape[0]
  batch = _batch(rollout, count)
  wanted = jnp.minimum(table.taken, total - 1) // rollout.samples
  first, ready = jax.lax.cond(
    wanted >= table.first + batch,
    lambda: _prefill(rollout, wanted, batch),
    lambda: (table.first, table.ready),
  )
  # The n-th free slot gets the n-th of the rows that wait, if that is ready
  # and enough slots are free: a piece of a rollout may end earlier.
  free, order = ~unfinished(rollout, slots.cursor), jnp.arange(batch)
  row = table.taken + order
  stop = jnp.minimum(total, (first + batch) * rollout.samples)
  fits = (jnp.sum(free) >= _wanted(rollout, table)) & (row < stop)
  place = jnp.argsort(~free, stable=True)[:batch]
  place = jnp.where(fits, place, count)
  source = jnp.clip(row // rollout.samples - first, 0, batch - 1)
  # Prefixes are the first columns, so they are a corner of what a slot holds.
  put = lambda old, new: old.at[(place, *map(slice, new.shape[1:]))].set(
    new[source], mode="drop"
  )
  slots = slots._replace(
    number=slots.number.at[place].set(row, mode="drop"),
    cache=jax.tree.map(put, slots.cache, ready),
  )
  new = jnp.zeros(count, bool).at[place].set(True, mode="drop")
  slots = _start(rollout, slots, new)
  return Table(slots, table.taken + jnp.sum(fits), first, ready, played)


def _start(rollout, slots, new: Bool[Array, " N"]) -> Slots:
  """Slots that are `new` begin with the prefixes of their rows."""
  number = jnp.minimum(slots.number, rollout.keys.shape[0] - 1)
  source = number // rollout.samples
  rows = jax.tree.map(lambda x: x[source], rollout.prefix)
  rows = contexts.widen(rows, rollout.length)
  cursor = start_cursor(rollout, rollout.live[source])
  pick = lambda fresh, old: jnp.where(
    new.reshape(-1, *[1] * (old.ndim - 1)), fresh, old
  )
  return slots._replace(
    birth=jnp.where(new, slots.step, slots.birth),
    rows=jax.tree.map(pick, rows, slots.rows),
    cursor=jax.tree.map(pick, cursor, slots.cursor),
  )


def _prefill(rollout, first, batch):
  """The caches of `batch` prefixes from number `first` on, or of the last."""
  first = jnp.minimum(first, rollout.start.shape[0] - batch)
  cut = lambda x: jax.lax.dynamic_slice_in_dim(x, first, batch)
  tokens, start = cut(rollout.prefix.tokens), cut(rollout.start)
  return first, prefill(rollout.model, rollout.params, tokens, start)
