"""Satori's restarts: some of the problems continue an old attempt.

Shen et al. 2025 (arXiv:2502.02508), Alg. 1: right and wrong attempts without
some of their last actions, and an action token, are more initial states; to
correct a wrong one gets a bonus, to spoil a right one the negative bonus. Here
tokens are left out, the task's instruction follows, the first rounds fill the
buffer, there is no reward model, and samples are compared, with a KL.
"""

import jax

from sitrain.curate import restarts as starts
from sitrain.methods import checks, reinforce, verbs
from sitrain.rollout.play import columns_of
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=(
  "shape", "kl_weights", "offline", "prompt_columns"
))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  problems: int, samples: int, restarts: int, dropped: int = 2,
  bonus: float = 0.5, beta: float = 0.01, capacity: int = 2048, **options,
) -> Method:
  """`restarts` of the `problems` continue attempts, when the buffer is full,
  without `dropped` last tokens; `beta` weighs the KL, not the bonus.
  """
  checks.check_attempts(task)
  starts.check(problems, restarts, dropped, turns, capacity, bonus)
  columns = sum(columns_of(task, (*turns[:1], 0)))  # an attempt and a reply
  method = reinforce.make(
    models, task, optimizer, turns=turns, problems=problems, samples=samples,
    shape=lambda reward: reward, kl_weights=(beta,) * len(turns),
    prompt_columns=columns, **options,
  )

  def pose(key, state):
    new, old = jax.random.split(key)
    return starts.mix(old, method.pose(new, state), state.memory, restarts)

  def refresh(state, problems, rows, verdict):
    found = starts.after_attempts(
      task, problems, rows, verdict, dropped=dropped, columns=columns
    )
    # Stored ones stay: those of a better policy are mostly right (app. E.2).
    return state._replace(memory=starts.store(state.memory, found))

  def curate(key, state, problems, rows, verdict):
    begun, reward = problems.solution[rows.problem], verdict.reward
    reward += bonus * starts.transition(begun, reward)
    shaped = verdict._replace(reward=reward)
    batch, metrics = method.curate(key, state, problems, rows, shaped)
    again = {"curate/restarts": verbs.share(begun[:, 0] != starts.NEW)}
    return batch, metrics | again

  memory = lambda key: starts.empty(task, capacity, columns)
  return method._replace(
    pose=pose, refresh=refresh, curate=curate, memory=memory
  )
