"""SEC: the difficulty of the problems follows a bandit, whose reward is |A|.

Chen et al. 2025 (arXiv:2505.14970): levels are arms, drawn by softmax(Q / tau),
and the reward of an arm is the mean absolute advantage of its rows. Levels that
an iteration did not pose keep their value here (in the released code it
decays).
"""

import jax
import jax.numpy as jnp

from sitrain.curate.advantage import group_normalise
from sitrain.curate.curriculum import choose, update_arms
from sitrain.methods import grpo, verbs
from sitrain.types import Mean, Method, Task


@verbs.forwards(grpo.make, without=("reward_role",))
def make(
  models: dict, task: Task, optimizer, *, problems: int, rate: float = 0.5,
  tau: float = 1.0, candidates: int = 8, **options,
) -> Method:
  """GRPO whose problems are chosen among `candidates` times as many.

  `rate` is alpha of the paper, `tau` the temperature of the choice. Raises
  ValueError for a task of one level.
  """
  levels = len(task.levels)
  if levels < 2:
    raise ValueError(
      f"this task has the level {task.levels} alone: a curriculum needs two"
    )
  method = grpo.make(models, task, optimizer, problems=problems, **options)
  draw = verbs.pose_from(task, problems * candidates)

  def pose(key, state):
    keys = jax.random.split(key)
    posed, chance = draw(keys[0], state), jax.nn.softmax(state.memory / tau)
    index = choose(keys[1], task.level(posed), chance, problems)
    return jax.tree.map(lambda x: x[index], posed)

  def refresh(state, problems, rows, verdict):
    known = verdict.known[:, -1]
    gain = group_normalise(verdict.reward[:, -1], rows.problem, known)
    level = task.level(problems)[rows.problem]
    memory = update_arms(state.memory, level, jnp.abs(gain), known, rate=rate)
    return state._replace(memory=memory)

  def curate(key, state, problems, rows, verdict):
    batch, metrics = method.curate(key, state, problems, rows, verdict)
    chance, one = jax.nn.softmax(state.memory / tau), jnp.ones(())
    return batch, metrics | {
      f"curate/arm_{name}": Mean(chance[i], one)
      for i, name in enumerate(task.levels)
    }

  return method._replace(
    pose=pose, refresh=refresh, curate=curate,
    memory=lambda key: jnp.zeros(levels), wanted=(),  # Arms see all problems.
  )
