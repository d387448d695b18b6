"""States to begin from that are no fresh problems: a problem and an attempt.

A restart is a row of Problems whose prompt holds both, and whose `solution`
says in its one column how that attempt had ended: NEW, WRONG or RIGHT.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from sitrain.rollout.contexts import Segment, compose
from sitrain.types import PAD, Episodes, Problems, Task

NEW, WRONG, RIGHT = 0, 1, 2


def empty(task: Task, capacity: int, columns: int) -> Problems:
  """No restarts yet: `capacity` rows of NEW, with prompts of `columns`."""
  draw = lambda: task.problems(jax.random.key(0), 1)
  one = jax.eval_shape(draw if task.table == () else lambda: task.table)
  return Problems(
    prompt=jnp.full((capacity, columns), PAD, jnp.int32),
    answer=jnp.zeros((capacity, one.answer.shape[1]), jnp.int32),
    solution=jnp.full((capacity, 1), NEW, jnp.int32),
  )


def filled(states: Problems) -> Bool[Array, ""]:
  """Whether there are restarts."""
  return states.solution[0, 0] != NEW


def behind_attempts(
  task: Task,
  problems: Problems,
  rows: Episodes,
  right: Bool[Array, " B"],
  *,
  dropped: int,
  columns: int,
) -> Problems:
  """A restart of each row: prompt, turn 1 without its last tokens, the reply.

  `columns` is the width of the prompts.
  """
  reply = task.reply(
    problems.answer[rows.problem], rows, jnp.ones_like(rows.problem)
  )
  left = jnp.cumsum((rows.turn == 1)[:, ::-1], axis=1)[:, ::-1]
  gone = (rows.turn == 1) & (left <= dropped)
  short = rows._replace(turn=jnp.where(gone, PAD, rows.turn))
  states = compose(
    problems, Segment(rows, 0), Segment(short, 1), reply.tokens
  )
  return as_wide(states, columns)._replace(
    solution=jnp.where(right, RIGHT, WRONG)[:, None].astype(jnp.int32)
  )


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
  """New problems, the first `count` of which give way to random restarts."""
  total = new.prompt.shape[0]
  new = as_wide(new, states.prompt.shape[1])._replace(
    solution=jnp.full((total, 1), NEW, jnp.int32)
  )
  row = jax.random.randint(key, (count,), 0, states.prompt.shape[0])
  old = jax.tree.map(lambda x: x[row], states)
  replace = lambda x, y: x.at[:count].set(
    jnp.where(filled(states), y, x[:count])
  )
  return jax.tree.map(replace, new, old)


def transition_bonus(
  begun: Int[Array, "B 1"], reward: Float[Array, "B K"], bonus: float
) -> Float[Array, "B K"]:
  """+bonus where a wrong attempt is solved, -bonus where a right is lost."""
  solved = (begun == WRONG) & (reward > 0)
  lost = (begun == RIGHT) & (reward <= 0)
  return bonus * (solved.astype(jnp.float32) - lost.astype(jnp.float32))
