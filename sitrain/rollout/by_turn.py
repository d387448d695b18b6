"""Rollouts in which the host answers between turns, with the cache kept.

`begin` reads the prompts and decodes the first turn; it ends when every row has
ended it. The host then writes the replies, and `go_on` reads all of them at
once and decodes the next turn. Between the two the cache stays on the device.

Rows end their turns at different columns, so the cache has columns that mean
nothing to some rows: `place` says which token of its row a column holds. Draws
are those of `play`, functions of (row key, turn, position in the turn).
"""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from sitrain.models.decoder import Attend
from sitrain.rollout import contexts, stops
from sitrain.rollout.caches import prefill
from sitrain.rollout.play import (
  Cursor,
  Rollout,
  next_token,
  row_keys,
  row_length,
)
from sitrain.types import PAD, ROOT, Episodes, Problems, Reply

SEED = 2**31  # a position in the turn that no token has


class Playing(NamedTuple):
  """What stays on the device while the host answers; rows come first."""

  rows: Episodes  # [B T] from column 0 on
  alive: Bool[Array, " B"]  # the dialogue goes on
  seed: Int[Array, " B"]  # for whoever answers: of the row and its turn
  last: Int[Array, " B"]  # the last token, which is not in the cache yet
  count: Int[Array, " B"]  # tokens before it
  start: Int[Array, " B"]  # the column of the row's first token in its prefix
  keys: Key[Array, " B"]
  column: Int[Array, " 1"]  # the next of the cache
  place: Int[Array, "B C"]  # which token of the row a column holds, or PAD
  cache: Any  # of what follows the prefixes
  prefix_cache: Any  # [P ...], shared by the samples of a problem


class Turns(NamedTuple):
  """The two programs of a rollout, which are to be compiled."""

  begin: Callable[..., Playing]  # (keys [P], state, problems)
  go_on: Callable[..., Playing]  # (state, playing, reply, turns ended)
  reply: Callable[..., Reply]  # Task.reply
  answer: Callable[..., Reply]  # see `playing`
  count: int  # turns


class Hosts(NamedTuple):
  """What the processes of a run have of the rows that they answer."""

  read: Callable[[Any], Any]  # arrays of rows -> those of this process, NumPy
  write: Callable[[Reply], Reply]  # replies of this process -> of all rows
  may_end: Callable[[bool], bool]  # whether all stop where this one would


ONE = Hosts(jax.device_get, lambda reply: reply, bool)


def on_host(reply: Callable) -> bool:
  """Whether a reply is written on the host, by its attribute `answer`."""
  return hasattr(reply, "answer")


def make(
  model: Any,
  policy: Callable[[Any], tuple[Any, Any]],
  *,
  samples: int,
  reply: Callable[..., Reply],
  turns: tuple[int, ...],
  eos: tuple[int, ...],
  top_k: int = 0,
  top_p: float = 1.0,
) -> Turns:
  """The programs of rollouts whose replies the host writes.

  `policy(state)` gives parameters and temperature. `reply` is a `Task.reply`
  with two attributes: `columns`, the most tokens of a reply, and `answer`, see
  `playing`; it may have `stops`, the strings that end turns. Other options as
  in `play.play_on`.
  """
  ends = getattr(reply, "stops", stops.NONE)
  fixed = dict(
    model=model, prefix=(), start=(), live=(), answer=(), samples=samples,
    reply=reply, turns=tuple(turns), first_turn=1, eos=eos,
    filters=dict(top_k=top_k, top_p=top_p), reply_width=reply.columns,
  )

  def rollout(state, keys, length):
    params, temperature = policy(state)
    temperature = jnp.asarray(temperature, jnp.float32)
    return Rollout(
      params=model.for_decoding(params), keys=keys, length=length,
      temperature=jnp.broadcast_to(temperature, keys.shape), **fixed,
    )

  def begin(keys, state, problems):
    keys = row_keys(keys, samples)
    length = row_length(problems.prompt.shape[1], turns, reply.columns)
    return _begin(rollout(state, keys, length), problems, ends)

  def go_on(state, playing, reply, ended):
    length = playing.rows.tokens.shape[1]
    now = rollout(state, playing.keys, length)
    return _go_on(now, playing, reply, ended, ends)

  return Turns(begin, go_on, reply, reply.answer, len(turns))


def playing(
  turns: Turns, keys: Key[Array, " P"], state: Any, problems: Problems, *,
  hosts: Hosts = ONE,
) -> Iterator[None]:
  """Plays to the end; pauses before it waits for the device.

  The generator returns the rows of `play.play`. Where several are driven in
  turn (`play_all`), one is decoded while the host answers for another.

  `turns.answer(answer, rows, turn, alive, seed) -> Reply` gets NumPy arrays,
  and answers the rows that are `alive` after `turn`. Where it is `done`, its
  tokens are no reply but the error that ended the row: they stand behind its
  last turn, where nothing else is ever given. `hosts` says which rows a process
  of several has.
  """
  now = turns.begin(keys, state, problems)
  answers = jax.device_get(problems.answer)
  for ended in range(1, turns.count):
    yield
    rows, alive, seed = hosts.read((now.rows, now.alive, now.seed))
    if hosts.may_end(not alive.any()):
      break
    reply = turns.answer(answers[rows.problem], rows, ended, alive, seed)
    reply = Reply(
      np.where(alive[:, None], reply.tokens, PAD), reply.done | ~alive
    )
    if hosts.may_end(reply.done.all() and (reply.tokens == PAD).all()):
      break
    now = turns.go_on(state, now, hosts.write(reply), np.int32(ended))
  return now.rows


def play_all(started: Sequence[Iterator[None]]) -> list[Episodes]:
  """The rows of several `playing`, which take turns."""
  found: dict[int, Episodes] = {}
  while len(found) < len(started):
    for i, one in enumerate(started):
      if i in found:
        continue
      try:
        next(one)
      except StopIteration as end:
        found[i] = end.value
  return [found[i] for i in range(len(started))]


def _begin(
  rollout: Rollout, problems: Problems, ends: stops.Stops
) -> Playing:
  """Reads the prompts and decodes the first turn of every row."""
  prefix = contexts.align_right(contexts.begin(problems, 1))
  start = jnp.argmax(prefix.turn != PAD, axis=1).astype(jnp.int32)
  repeat = lambda x: jnp.repeat(x, rollout.samples, axis=0)
  rows = jax.tree.map(repeat, prefix)
  rows = contexts.align_left(contexts.widen(rows, rollout.length))
  width, count = prefix.tokens.shape[1], rollout.keys.shape[0]
  prefix_cache = ()
  if width > 1:
    prefix_cache = prefill(
      rollout.model, rollout.params, prefix.tokens, start
    )
  columns = row_length(0, rollout.turns, rollout.reply_width)
  now = Playing(
    rows=rows._replace(parent=jnp.full_like(rows.parent, ROOT)),
    alive=jnp.ones(count, bool),
    seed=jnp.zeros(count, jnp.uint32),
    last=repeat(prefix.tokens[:, -1]),
    count=width - 1 - repeat(start),
    start=repeat(start),
    keys=rollout.keys,
    column=jnp.zeros(1, jnp.int32),
    place=jnp.full((count, columns), PAD, jnp.int32),
    cache=rollout.model.make_cache(count, columns),
    prefix_cache=prefix_cache,
  )
  return _decode(rollout, now, jnp.zeros((), jnp.int32), ends)


def _go_on(
  rollout: Rollout, now: Playing, reply: Reply, ended: Int[Array, ""],
  ends: stops.Stops,
) -> Playing:
  """Reads the replies to turn `ended`, and decodes the next turn."""
  tokens = reply.tokens.astype(jnp.int32)
  rows = _append(now.rows, tokens, 0, jnp.zeros(tokens.shape))
  alive = now.alive & ~reply.done
  now = _read(rollout, now._replace(rows=rows, alive=alive), tokens)
  return _decode(rollout, now, ended, ends)


def _append(rows, tokens, turn, logprob) -> Episodes:
  """Rows with more tokens behind their text; their width stays."""
  more = rows._replace(
    tokens=tokens, turn=jnp.where(tokens == PAD, PAD, turn),
    logprob=logprob.astype(rows.logprob.dtype), path=jnp.zeros_like(tokens),
  )
  fields = ("tokens", "turn", "logprob", "path")
  both = {
    name: jnp.concatenate([getattr(rows, name), getattr(more, name)], axis=1)
    for name in fields
  }
  order = jnp.argsort(both["turn"] == PAD, axis=1, stable=True)
  order = order[:, : rows.tokens.shape[1]]
  return rows._replace(**{
    name: jnp.take_along_axis(both[name], order, axis=1) for name in fields
  })


def _read(
  rollout: Rollout, now: Playing, reply: Int[Array, "B F"]
) -> Playing:
  """Puts the last token and the reply but for its last token into the cache.

  As one block, which ends with the last token of every row, so that shorter
  replies leave columns empty in front of it.
  """
  width = reply.shape[1]
  if not width:
    return now
  block = jnp.concatenate([now.last[:, None], reply], axis=1)
  order = jnp.argsort(block != PAD, axis=1, stable=True)
  block = jnp.take_along_axis(block, order, axis=1)
  after = jnp.sum(reply != PAD, axis=1, dtype=jnp.int32)
  token = now.count[:, None] + after[:, None] - width + jnp.arange(width + 1)
  token = jnp.where(block == PAD, PAD, token)
  at = now.column[0]
  place = jax.lax.dynamic_update_slice(now.place, token[:, :-1], (0, at))
  prefix = _prefix_width(rollout)
  position = jnp.maximum(token[:, :-1], 0)
  attend = _attend(rollout, now._replace(place=place), position)
  # A block is read against one cache, a single token against its two parts.
  cache = _joined(now, rollout.samples)
  _, cache = rollout.model.apply(
    {"params": rollout.params}, block[:, :-1], attend, cache, prefix + at
  )
  return now._replace(
    last=block[:, -1], count=now.count + after, place=place,
    column=now.column + width,
    cache=jax.tree.map(lambda x: x[:, :, prefix:], cache),
  )


def _prefix_width(rollout) -> int:
  """Columns of the prefix cache: all but the last token of a prompt."""
  after = row_length(0, rollout.turns, rollout.reply_width)
  return rollout.length - after - 1


def _joined(now, samples):
  """The caches of prefixes and of what follows them, as one."""
  if not now.prefix_cache:
    return now.cache
  join = lambda x, y: jnp.concatenate(
    [jnp.repeat(x, samples, axis=0), y], axis=2
  )
  return jax.tree.map(join, now.prefix_cache, now.cache)


def _attend(
  rollout: Rollout, now: Playing, position: Int[Array, "B Q"]
) -> Attend:
  """Queries at `position` see what came before them, and themselves."""
  prefix = jnp.arange(_prefix_width(rollout), dtype=jnp.int32)
  before = prefix - now.start[:, None]
  key = jnp.concatenate([jnp.where(before < 0, PAD, before), now.place], axis=1)
  seen = (key >= 0)[:, None] & (key[:, None] <= position[:, :, None])
  return Attend(position, jnp.maximum(key, 0), seen)


class _Step(NamedTuple):
  number: Int[Array, ""]  # of the step: the position in the turn
  writing: Bool[Array, " B"]
  now: Playing
  drawn: Int[Array, "B M"]
  logprob: Any
  state: Int[Array, "B N"]  # of the strings that end turns


def _decode(
  rollout: Rollout, now: Playing, ended: Int[Array, ""], ends: stops.Stops
) -> Playing:
  """Decodes the turn after `ended` ones, until no row writes."""
  most, count = max(rollout.turns), rollout.keys.shape[0]
  limit = jnp.asarray(rollout.turns, jnp.int32)[ended]
  numbers = jnp.arange(count)
  put = lambda x, new, at: jax.lax.dynamic_update_slice(
    x, new[:, None].astype(x.dtype), (0, at)
  )

  def step(one):
    now, at = one.now, one.now.column[0]
    place = put(now.place, jnp.where(one.writing, now.count, PAD), at)
    now = now._replace(place=place)
    cursor = Cursor(
      jnp.full(count, ended), jnp.full(count, one.number), (), ()
    )
    parts = now.cache
    if now.prefix_cache:
      parts = tuple(map(operator.add, now.cache, now.prefix_cache))
    drawn, logprob, cache = next_token(
      rollout, numbers, cursor, now.last[:, None],
      _attend(rollout, now, now.count[:, None]), parts, at,
    )
    over = jnp.isin(drawn, jnp.asarray(rollout.eos, jnp.int32))
    over |= one.number + 1 >= limit
    state, stopped = stops.follow(ends, one.state, drawn)
    over |= stopped
    return _Step(
      one.number + 1,
      one.writing & ~over,
      now._replace(
        last=jnp.where(one.writing, drawn, now.last),
        count=now.count + one.writing, column=now.column + 1, cache=cache,
      ),
      put(one.drawn, jnp.where(one.writing, drawn, PAD), one.number),
      put(one.logprob, jnp.where(one.writing, logprob, 0.0), one.number),
      state,
    )

  begun = _Step(
    jnp.zeros((), jnp.int32), now.alive, now,
    jnp.full((count, most), PAD, jnp.int32), jnp.zeros((count, most)),
    stops.begin(ends, count),
  )
  last = jax.lax.while_loop(lambda one: jnp.any(one.writing), step, begun)
  rows = _append(now.rows, last.drawn, ended + 1, last.logprob)
  return last.now._replace(rows=rows, seed=_seeds(rollout, ended))


def _seeds(rollout, ended):
  """A number for each row and turn, the same whatever the batch."""
  fold = jax.vmap(jax.random.fold_in, (0, None))
  keys = fold(fold(rollout.keys, ended + rollout.first_turn), SEED)
  return jax.vmap(functools.partial(jax.random.bits, dtype=jnp.uint32))(keys)
