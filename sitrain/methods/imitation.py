"""Supervised fine-tuning on the given solutions of a task.

It makes the base models: what a task's corpus shows, turn after turn.
"""

import jax.numpy as jnp

from sitrain.curate.select import imitation_batch
from sitrain.judge.verifier import written
from sitrain.losses.reduce import mean
from sitrain.methods import checks, verbs
from sitrain.rollout import contexts
from sitrain.types import Method, Task, Verdict


def make(
  models: dict, task: Task, optimizer, *, problems: int,
  turns: tuple[int, ...],
) -> Method:
  """Mean negative log-likelihood over the tokens of all given turns.

  Rows with a given turn longer than its limit are left out, and counted in
  judge/too_long; of a table they are refused. Raises ValueError for them, and
  for a task without solutions.
  """
  checks.check_turns(task, turns)
  checks.check_solutions(task, turns)

  def generate(keys, state, problems):
    return contexts.given(
      problems, reply=task.reply, turns=turns, eos=task.eos
    )

  def judge(key, state, problems, episodes):
    # Given text needs no verifier: everything that fits is worth imitating.
    fits = contexts.fits(problems, turns, task.eos)[episodes.problem]
    known = (written(episodes, len(turns)) & fits[:, None]).astype(jnp.float32)
    cut = 1.0 - fits
    return Verdict(known, known), {
      "judge/too_long": mean(cut, jnp.ones_like(cut))
    }

  def curate(key, state, problems, episodes, verdict):
    ones = jnp.ones(episodes.tokens.shape[0])
    return imitation_batch(episodes, verdict.known > 0, ones), {}

  return Method(
    pose=verbs.pose_from(task, problems),
    generate=generate,
    judge=judge,
    refresh=verbs.keep_state,
    curate=curate,
    loss=verbs.likelihood_loss(models["policy"]),
  )
