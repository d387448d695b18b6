"""States to begin from that are no fresh problems: a problem and an attempt.

A restart is a row of Problems whose prompt holds both, and whose `solution`
says in its one column how that attempt had ended: WRONG, RIGHT, or NEW where
there is none, or none that may be begun behind.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sitrain.curate.pairs import best_and_worst, take_rows
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


def full(states: Problems) -> Bool[Array, ""]:
  """Whether every place holds a restart."""
  return jnp.all(states.solution != NEW)


def behind_attempts(
  task: Task,
  problems: Problems,
  rows: Episodes,
  verdict: Verdict,
  *,
  dropped: int,
  columns: int,
) -> Problems:
  """Two restarts [2P] a problem, behind one right and one wrong attempt.

  Each is the prompt, turn 1 without its last `dropped` tokens and the reply, in
  prompts of `columns`. An attempt is right where its reward is above 0. Of a
  problem without one of each kind, and where a reply would end the episode,
  they are NEW: no restarts. What the verifier failed on is of neither kind.
  """
  reward, known = verdict.reward[:, 0], verdict.known[:, 0] > 0
  best, worst, found = best_and_worst(
    reward, known, rows.problem, problems.prompt.shape[0]
  )
  found &= (reward[best] > 0) & (reward[worst] <= 0)
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
  """Puts restarts that were found into the free places; those there stay."""
  both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), states, found)
  order = jnp.argsort(both.solution[:, 0] == NEW, stable=True)
  return jax.tree.map(lambda x: x[order[: states.prompt.shape[0]]], both)


def as_wide(problems: Problems, columns: int) -> Problems:
  """The same problems with prompts of `columns`; what is cut must be PAD."""
  more = max(columns - problems.prompt.shape[1], 0)
  prompt = jnp.pad(
    problems.prompt, ((0, 0), (more, 0)), constant_values=PAD
  )
  return problems._replace(prompt=prompt[:, prompt.shape[1] - columns :])


def mix(
  key: Key[Array, ""], new: Problems, states: Problems, count: int
) -> Problems:
  """New problems; once all states are there, restarts for the first `count`."""
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
  """1 where a wrong attempt is solved, -1 where a right one is lost, else 0."""
  solved = (begun == WRONG) & (reward > 0)
  lost = (begun == RIGHT) & (reward <= 0)
  return solved.astype(jnp.float32) - lost.astype(jnp.float32)
