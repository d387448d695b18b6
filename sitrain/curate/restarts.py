"""Restarts: prompts that contain a problem and an earlier attempt.

A restart is a row of Problems whose prompt has both, and whose `solution` has
one column with the outcome of that attempt: WRONG, RIGHT, or NEW where there is
no attempt to restart after.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sitrain.curate.pairs import best_and_worst, take_rows
from sitrain.judge.groups import FULL
from sitrain.rollout.contexts import Segment, compose
from sitrain.tasks.rows import problem_shape
from sitrain.types import PAD, Episodes, Problems, Task, Verdict

NEW, WRONG, RIGHT = 0, 1, 2


def empty(task: Task, capacity: int, columns: int) -> Problems:
  """No restarts yet: `capacity` rows of NEW, with prompts of `columns`."""
  fields = problem_shape(task).answer.shape[1]
  return Problems(
    prompt=jnp.full((capacity, columns), PAD, jnp.int32),
    answer=jnp.zeros((capacity, fields), jnp.int32),
    solution=jnp.full((capacity, 1), NEW, jnp.int32),
  )


def check(
  problems: int, restarts: int, dropped: int, turns: tuple[int, ...],
  capacity: int, bonus: float,
) -> None:
  """Raises ValueError for options of Satori that begin nothing again.

  `turns` has the limit of an attempt in tokens.
  """
  turn = max(turns, default=1)
  if not 0 <= restarts <= problems:
    raise ValueError(
      f"restarts={restarts}: some of the problems: set it from 0 to {problems}"
    )
  if not 0 <= dropped < turn:
    raise ValueError(
      f"dropped={dropped} of an attempt of up to {turn} tokens: set it from 0"
      f" to {turn - 1}"
    )
  if capacity < 1 or not math.isfinite(bonus):
    raise ValueError(
      f"capacity={capacity}, bonus={bonus}: set them to 1 or more, and a number"
    )


def full(states: Problems) -> Bool[Array, ""]:
  """Whether every place has a restart."""
  return jnp.all(states.solution != NEW)


def after_attempts(
  task: Task,
  problems: Problems,
  rows: Episodes,
  verdict: Verdict,
  *,
  dropped: int,
  columns: int,
) -> Problems:
  """Two restarts [2P] a problem, after a right and a wrong attempt.

  Each is the prompt, turn 1 without its last `dropped` tokens and the reply, in
  prompts of `columns`. An attempt is right where its reward is full, and of
  neither kind where it is not known. Both are NEW, no restarts, for a problem
  without an attempt of each kind, and where the reply ends the episode.
  """
  reward, known = verdict.reward[:, 0], verdict.known[:, 0] > 0
  best, worst, found = best_and_worst(
    reward, known, rows.problem, problems.prompt.shape[0]
  )
  found &= (reward[best] >= FULL) & (reward[worst] < FULL)
  rows = take_rows(rows, jnp.concatenate([best, worst]))
  first = jnp.ones_like(rows.problem)
  reply = task.reply(problems.answer[rows.problem], rows, first)
  left = jnp.cumsum((rows.turn == 1)[:, ::-1], axis=1)[:, ::-1]
  gone = (rows.turn == 1) & (left <= dropped)
  short = rows._replace(turn=jnp.where(gone, PAD, rows.turn))
  states = compose(
    problems, Segment(rows, 0), Segment(short, 1), reply.tokens
  )
  ended = jnp.repeat(jnp.array([RIGHT, WRONG]), found.shape[0])
  fit = jnp.tile(found, 2) & ~reply.done
  return as_wide(states, columns)._replace(
    solution=jnp.where(fit, ended, NEW)[:, None].astype(jnp.int32)
  )


def store(states: Problems, found: Problems) -> Problems:
  """Stores new restarts in the free places; stored ones stay."""
  both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), states, found)
  order = jnp.argsort(both.solution[:, 0] == NEW, stable=True)
  return jax.tree.map(lambda x: x[order[: states.prompt.shape[0]]], both)


def as_wide(problems: Problems, columns: int) -> Problems:
  """The same problems with prompts of `columns`; only PAD may be cut."""
  more = max(columns - problems.prompt.shape[1], 0)
  prompt = jnp.pad(
    problems.prompt, ((0, 0), (more, 0)), constant_values=PAD
  )
  return problems._replace(prompt=prompt[:, prompt.shape[1] - columns :])


def mix(
  key: Key[Array, ""], new: Problems, states: Problems, count: int
) -> Problems:
  """New problems; when all places are full, the first `count` are restarts."""
  total = new.prompt.shape[0]
  new = as_wide(new, states.prompt.shape[1])._replace(
    solution=jnp.full((total, 1), NEW, jnp.int32)
  )
  row = jax.random.randint(key, (count,), 0, states.prompt.shape[0])
  old = jax.tree.map(lambda x: x[row], states)
  replace = lambda x, y: x.at[:count].set(
    jnp.where(full(states), y, x[:count])
  )
  return jax.tree.map(replace, new, old)


def transition(
  begun: Int[Array, "B 1"], reward: Float[Array, "B K"]
) -> Float[Array, "B K"]:
  """1 where a wrong attempt is corrected, -1 where a right one is spoiled."""
  solved = (begun == WRONG) & (reward >= FULL)
  lost = (begun == RIGHT) & (reward < FULL)
  return solved.astype(jnp.float32) - lost.astype(jnp.float32)
