"""Satori's restarts: a part of the problems begin behind an old attempt.

Shen et al. 2025 (arXiv:2502.02508), Alg. 1: right and wrong attempts of the
first policy, their last tokens dropped and an action token behind them, are
further states to begin from; a wrong one that is solved is paid a bonus, a
right one that is lost is charged it. The action token is the task's own
instruction, rewards are the verifier's without a reward model, and samples of
one state are compared, where the paper trains a critic.
"""

import jax
import jax.numpy as jnp

from sitrain.curate import restarts as starts
from sitrain.methods import reinforce, verbs
from sitrain.rollout.play import columns_of
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=("shape", "kl_weights", "offline"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  problems: int, samples: int, restarts: int, dropped: int = 2,
  bonus: float = 0.5, beta: float = 0.01, **options,
) -> Method:
  """`restarts` of the `problems` begin behind an attempt of the first round.

  `dropped` tokens of that attempt are left out; `bonus` is beta of the paper,
  and `beta` weighs the KL of every turn.
  """
  method = reinforce.make(
    models, task, optimizer, turns=turns, problems=problems, samples=samples,
    shape=lambda reward: reward, kl_weights=(beta,) * len(turns), **options,
  )
  slots, behind = columns_of(task, (*turns[:1], 0))  # an attempt and a reply

  def pose(key, state):
    new_key, old_key = jax.random.split(key)
    new = method.pose(new_key, state)
    return starts.mix(old_key, new, state.memory, restarts)

  def refresh(state, problems, rows, verdict):
    found = starts.behind_attempts(
      task, problems, rows, verdict.reward[:, 0] > 0, dropped=dropped,
      columns=slots + behind,
    )
    # Only the first round fills it: the paper's buffers are offline.
    keep = lambda old, new: jnp.where(starts.filled(state.memory), old, new)
    return state._replace(memory=jax.tree.map(keep, state.memory, found))

  def curate(key, state, problems, rows, verdict):
    begun = problems.solution[rows.problem]
    extra = starts.transition_bonus(begun, verdict.reward, bonus)
    shaped = verdict._replace(reward=verdict.reward + extra)
    return method.curate(key, state, problems, rows, shaped)

  return method._replace(
    pose=pose, refresh=refresh, curate=curate,
    memory=lambda key: starts.empty(task, problems * samples, slots + behind),
  )
