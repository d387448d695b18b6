"""Plays and judges the episodes that an evaluation needs, part by part."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from sitrain.judge.roles import roles
from sitrain.judge.verifier import (
  cut_turns,
  final_answers,
  verify,
  written,
)
from sitrain.models.parameters import computed
from sitrain.rollout import by_turn
from sitrain.rollout.play import Replier, check_slots, play
from sitrain.rollout.window import check_window, play_in_window
from sitrain.types import (
  PAD,
  Episodes,
  Key,
  Params,
  Problems,
  Reply,
  Task,
)

LENGTHS = 4  # that prompts are cut to: a program is compiled for each
STEP = 16  # and each is a multiple of these
FULL = 1.0 - 1e-6  # the least reward that is not partial: sums are rounded


class Player(NamedTuple):
  """How episodes are played; the first three are compiled."""

  pose: Callable[[Key, int], Problems]
  play: Callable[..., Episodes]  # (keys [P], (params, temperature), problems)
  judge: Callable[[Problems, Episodes], "Judged"]
  samples: int  # episodes per problem
  turns: int


class Judged(NamedTuple):
  """Of every episode and turn."""

  right: Any  # [B K] 1 for a full reward, else 0; 0 where not known
  known: Any  # [B K] 0 where the verifier failed
  final: Any  # [B K] id of the answer, or -1
  truncated: Any  # [B K] cut at the limit of the turn
  reward: Any  # [B K] 0 where not known; that of `right` unless it is partial


class Played(NamedTuple):
  """Episodes on the host, samples of a problem one after the other."""

  tokens: np.ndarray  # [B T]
  turn: np.ndarray  # [B T]
  judged: Judged


OnProgress = Callable[[int, int], None]  # (problems done, problems in all)


def no_progress(done: int, total: int) -> None:
  """Ignores the progress."""


def unsharded(
  generate: Callable, *, prepare: Callable | None = None
) -> Callable:
  """Returns `generate` unchanged: the compiler chooses the layout."""
  return generate


def make(
  model: Any,
  task: Task,
  *,
  turns: tuple[int, ...],
  samples: int,
  top_k: int = 0,
  top_p: float = 1.0,
  slots: int = 0,
  reply: Replier,
  window: int = 0,
  spread: Callable[[Callable], Callable] = unsharded,
  jit: Callable[..., Callable],
) -> Player:
  """A player of this task with this model.

  `turns` holds the token limit of each turn; `reply` is what the policy reads
  between turns, as `task.reply`. `jit` is `jax.jit`, which only mains may name;
  one compilation serves all parameters. `spread` splits
  generate(keys, state, problems) over devices, as `runtime.sharding.by_group`
  does. `slots` rows are decoded at a time on each group of devices; 0: all.
  `window`: turns that the policy sees, the one it writes among them; 0: all.
  Raises ValueError for slots below 0, and for a window where the host replies.
  """
  check_slots(slots)
  if window:
    check_window(window)
  begin = partial(play_in_window, window=window) if window else play

  def generate(keys, state, problems):
    params, temperature = state
    return begin(
      keys, model, params, problems, slots=slots, samples=samples, reply=reply,
      turns=turns, eos=task.eos, temperature=temperature, top_k=top_k,
      top_p=top_p,
    )  # fmt: skip

  prepare = lambda state: (computed(state[0], model.dtype), state[1])
  judge, compiled = make_judge(task, len(turns)), partial(jit)
  asks = by_turn.on_host(reply) and (
    len(turns) > 1 or hasattr(reply, "stops")
  )
  if asks and window:
    raise ValueError(
      f"window={window}: set it to 0, as this task's environment replies on "
      "the host"
    )
  return Player(
    pose=make_poser(task, jit),
    play=_player_by_turn(
      model, compiled, spread, slots, samples=samples, turns=turns,
      reply=reply, eos=task.eos, top_k=top_k, top_p=top_p,
    ) if asks else compiled(spread(generate, prepare=prepare)),
    judge=judge if task.on_host else compiled(judge),
    samples=samples,
    turns=len(turns),
  )


def _player_by_turn(model, compiled, spread, slots, **options):
  """`play` where the host answers between turns, on all devices together."""
  if slots:
    raise ValueError(
      f"slots={slots}: set it to 0, as all rows wait for the environment"
    )
  generate = lambda *given: ()
  generate.by_turn = by_turn.make(model, lambda state: state, **options)
  turns = spread(generate).by_turn
  turns = turns._replace(
    begin=compiled(turns.begin),
    go_on=compiled(turns.go_on, donate_argnums=1),
    # Here every process of a job has all rows.
    answer=getattr(turns.reply, "together", turns.answer),
  )

  def play(keys, state, problems):
    (rows,) = by_turn.play_all(
      [by_turn.playing(turns, keys, state, problems)]
    )
    return rows

  return play


def make_poser(
  task: Task, jit: Callable[..., Callable]
) -> Callable[[Key, int], Problems]:
  """Draws problems from a key, or takes the first rows of the table."""
  if task.table == ():
    return partial(jit, static_argnums=1)(task.problems)

  def pose(key, n):
    return _take(jax.tree.map(np.asarray, task.table), slice(n))

  return pose


def make_judge(
  task: Task, turns: int
) -> Callable[[Problems, Episodes], Judged]:
  """The task's verifier on every turn of every episode.

  Where a reply ended an episode early, its last turn counts for later ones; of
  a task whose policy judges itself, its last attempt for later attempts, and
  its last verdict for later verdicts. What an environment takes off a reward
  makes no answer wrong.
  """
  def judge(problems, episodes):
    verdict = verify(task, problems, episodes, turns)
    final = jnp.asarray(final_answers(task, episodes, turns))
    cut = cut_turns(task, episodes, turns)
    taken = np.minimum(verdict.parts.get("environment", 0.0), 0.0)
    right = (verdict.reward - taken >= FULL) * verdict.known
    reward = verdict.reward * verdict.known
    judged = Judged(right, verdict.known, final, cut, reward)
    return _repeat_last(judged, written(episodes, turns), roles(task))

  return judge


def _repeat_last(
  judged: Judged, present: Bool[Array | np.ndarray, "B K"], roles: int
) -> Judged:
  """Replaces every turn that was not written by the last of its role."""
  turn = np.arange(present.shape[1])
  gap = turn[:, None] - turn
  before = (gap >= 0) & (gap % roles == 0)
  later = turn - (turn % roles)[:, None]  # than the first turn of the role
  last = (present[:, None] * before * later).max(axis=2) + turn % roles
  return jax.tree.map(lambda x: jnp.take_along_axis(x, last, axis=1), judged)


def played(
  player: Player,
  params: Params,
  key: Key,
  *,
  problems: int,
  batch: int,
  temperature: float,
  stream: int = 0,
  on_progress: OnProgress = no_progress,
) -> tuple[Problems, Played]:
  """Problems, drawn from the key or rows of the table, and their episodes.

  At most `batch` rows are on the device at once. Problems are drawn from
  fold_in(key, 0), or are the first rows of the task's table; samples of problem
  i are drawn from fold_in(fold_in(key, 1 + stream), i). So they do not depend
  on the batch, and streams share problems but no draws. Temperature 0 is
  greedy. Raises ValueError where `batch` is smaller than one problem's samples.
  """
  # On the host, where taking rows compiles nothing.
  posed = jax.device_get(player.pose(jax.random.fold_in(key, 0), problems))
  count, found, done = posed.prompt.shape[0], [], 0
  parts = parts_of(player, posed, batch=batch)
  for rows in parts:
    on_progress(done, count)
    found.append(play_rows(
      player, params, key, posed, rows, batch=batch, temperature=temperature,
      stream=stream,
    ))  # fmt: skip
    done += len(rows)
  on_progress(done, count)
  return posed, _in_order(player, parts, found)


def parts_of(
  player: Player, posed: Problems, *, batch: int
) -> list[Int[np.ndarray, " N"]]:
  """Numbers of the problems of each part, sorted by prompt length."""
  size = part_size(player.samples, batch, posed.prompt.shape[0])
  tokens = _tokens(posed.prompt)
  order = np.argsort(tokens, kind="stable")
  *parts, last = [order[i : i + size] for i in range(0, len(order), size)]
  return [*parts, *_split_longest(last, tokens)]


def _split_longest(part, tokens):
  """The last part, or two where a few prompts are much longer than the others.

  Two only where that halves the columns, as each part decodes by itself.
  """
  length, count = -(-tokens[part] // STEP) * STEP, len(part)
  first = np.arange(1, count)
  columns = first * length[:-1] + (count - first) * length[-1]
  if count < 2 or 2 * columns.min() > count * length[-1]:
    return [part]
  return np.split(part, [first[columns.argmin()]])


def lengths_of(longest: Iterable[int]) -> list[int]:
  """At most LENGTHS lengths, of which each part gets the least that holds it.

  `longest` has the tokens of the longest prompt of every part. A length is one
  of these, rounded up to STEP; those are left out that cost the least columns
  in all. Powers of two would read up to twice the columns, and a length for
  each part would compile more than it saves.
  """
  parts = Counter(-(-n // STEP) * STEP for n in longest)
  while len(parts) > LENGTHS:
    known = sorted(parts)
    low, high = min(
      zip(known, known[1:]), key=lambda two: parts[two[0]] * (two[1] - two[0])
    )
    parts[high] += parts.pop(low)
  return sorted(parts)


def _tokens(prompt) -> Int[np.ndarray, " P"]:
  """Tokens of every prompt."""
  return np.sum(np.asarray(prompt) != PAD, axis=1)


def play_rows(
  player: Player,
  params: Params,
  key: Key,
  posed: Problems,
  rows: Int[np.ndarray, " N"],
  *,
  batch: int,
  temperature: float,
  stream: int = 0,
) -> Played:
  """Episodes of the problems `rows`, one part of `played`."""
  keys, part = part_of(player, key, posed, rows, batch=batch, stream=stream)
  episodes = player.play(keys, (params, jnp.float32(temperature)), part)
  judged = player.judge(part, episodes)
  found = jax.device_get(Played(episodes.tokens, episodes.turn, judged))
  return _take(found, slice(len(rows) * player.samples))


def part_of(
  player: Player,
  key: Key,
  posed: Problems,
  rows: Int[np.ndarray, " N"],
  *,
  batch: int,
  stream: int = 0,
) -> tuple[Array, Problems]:
  """Keys and problems of a part: `rows`, and copies of the last behind them.

  Of `player` only `samples` counts.
  """
  size = part_size(player.samples, batch, posed.prompt.shape[0])
  # The last part is padded, so that all parts have one shape; not so a few
  # rows, which are those of the longest prompts or what a file still lacks.
  if 2 * len(rows) <= size:
    size = 1 << (len(rows) - 1).bit_length()
  filled = np.pad(rows, (0, max(size - len(rows), 0)), mode="edge")
  part = _cut(_take(posed, filled), posed, parts_of(player, posed, batch=batch))
  key = jax.random.fold_in(key, 1 + stream)
  return jax.vmap(jax.random.fold_in, (None, 0))(key, filled), part


def _cut(part, posed, parts):
  """The problems `part` without columns in which no prompt has a token.

  They are cut to the least of the lengths of all `parts` that holds them.
  """
  tokens = _tokens(posed.prompt)
  lengths = lengths_of(int(tokens[rows].max()) for rows in parts)
  longest, most = _tokens(part.prompt).max(), part.prompt.shape[1]
  width = next(length for length in lengths if length >= longest)
  return part._replace(prompt=part.prompt[:, -min(width, most) :])


def _in_order(player, parts, found):
  """All episodes padded to one width, in the order of the problems."""
  length = max(part.tokens.shape[1] for part in found)
  wide = [
    part._replace(tokens=_widen(part.tokens, length),
                  turn=_widen(part.turn, length))
    for part in found
  ]
  place = np.argsort(np.concatenate(parts), kind="stable")
  row = place[:, None] * player.samples + np.arange(player.samples)
  return jax.tree.map(lambda *x: np.concatenate(x)[row.reshape(-1)], *wide)


def _widen(rows, length):
  more = ((0, 0), (0, length - rows.shape[1]))
  return np.pad(rows, more, constant_values=PAD)


def part_size(samples: int, batch: int, problems: int) -> int:
  """Problems played at once, each `samples` times: as many in every part."""
  most = batch // samples
  if most < 1 or problems < 1:
    raise ValueError(
      f"batch={batch} rows for {problems} problems of {samples} samples "
      "each: it must hold at least one problem with all its samples"
    )
  parts = -(-problems // most)
  return -(-problems // parts)


def _take(tree, rows):
  return jax.tree.map(lambda x: x[rows], tree)


def replies(texts: Sequence[Sequence[int]]) -> Replier:
  """Constant replies as token ids: `texts[k]` is read after turn k + 1.

  Raises ValueError for an empty reply: the policy would continue as if its turn
  had not ended.
  """
  if not texts or not all(len(text) for text in texts):
    raise ValueError(f"replies {texts}: each needs at least one token")
  width = max(len(text) for text in texts)
  table = np.full((len(texts), width), PAD, np.int32)
  for row, text in zip(table, texts):
    row[: len(text)] = text

  def reply(answer, episodes, turn):
    tokens = jnp.asarray(table)[jnp.clip(turn - 1, 0, len(texts) - 1)]
    return Reply(tokens, jnp.zeros(turn.shape, bool))

  return reply
