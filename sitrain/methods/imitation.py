"""Supervised fine-tuning on the given solutions of a task.

Here it makes the base model: what the task's corpus shows, turn after turn.
"""

import jax.numpy as jnp

from sitrain.curate.select import imitation_batch
from sitrain.methods import verbs
from sitrain.rollout.recite import recite
from sitrain.types import Method, Task, Verdict


def make(
  models: dict, task: Task, optimizer, *, problems: int,
  turns: tuple[int, ...],
) -> Method:
  """Mean negative log-likelihood over the tokens of all given turns.

  Raises ValueError for a given turn that is longer than its limit.
  """
  verbs.check_turns(task, turns)
  verbs.check_solutions(task, turns)

  def generate(keys, state, problems):
    return recite(problems, reply=task.reply, turns=turns, eos=task.eos)

  def judge(key, state, problems, episodes):
    # Given text needs no verifier: everything is worth imitating.
    ones = jnp.ones((episodes.tokens.shape[0], len(turns)))
    return Verdict(ones, ones), {}

  def curate(key, state, problems, episodes, verdict):
    trained = verdict.reward > 0
    return imitation_batch(episodes, trained, verdict.reward[:, 0]), {}

  return Method(
    pose=verbs.pose_from(task, problems),
    generate=generate,
    judge=judge,
    refresh=verbs.keep_state,
    curate=curate,
    loss=verbs.likelihood_loss(models["policy"]),
  )
