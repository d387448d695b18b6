"""Iterative DPO: the policy's own best and worst samples of a problem as pairs.

Rafailov et al. 2023 (arXiv:2305.18290) for the loss; in rounds, as in Pang et
al. 2024 (arXiv:2404.19733): in each iteration the current policy samples and
becomes the reference of the gradient steps that follow. One pair a problem.
"""

import jax.numpy as jnp

from sitrain.curate import pairs
from sitrain.losses.reduce import mean
from sitrain.methods import verbs
from sitrain.models.roles import params_of
from sitrain.types import Method, Task


def make(
  models: dict, task: Task, optimizer, *, problems: int, samples: int,
  turns: tuple[int, ...], beta: float = 0.1, anchor: float = 0.0,
  temperature: float = 1.0, slots: int = 0,
) -> Method:
  """Pairs by the reward of the last turn; equal ones make none.

  `beta` is DPO's, and `anchor` weighs the likelihood of the chosen rows beside
  it. All turns of both rows are trained, of rows whose verdicts are all known.
  `slots` rows are decoded at a time; 0: all.
  """
  verbs.check_turns(task, turns)
  verbs.check_samples(samples)
  model = models["policy"]
  rows = dict(samples=samples, turns=turns, temperature=temperature)

  def curate(key, state, problems, episodes, verdict):
    count = problems.prompt.shape[0]
    best, worst, found = pairs.best_and_worst(
      verdict.reward[:, -1], jnp.all(verdict.known > 0, axis=1),
      episodes.problem, count,
    )
    both = [pairs.take_rows(episodes, row) for row in (best, worst)]
    reference = pairs.score_pairs(
      model, params_of(state, "reference"), *both, temperature=temperature
    )
    ones = jnp.ones(count)
    batch = pairs.pair_batch(
      *both, reference, label=ones,
      trained=jnp.broadcast_to(found[:, None], (count, len(turns))),
    )
    return batch, {"curate/pairs": mean(found * ones, ones)}

  return Method(
    pose=verbs.pose_from(task, problems),
    generate=verbs.play_with(model, task, slots=slots, **rows),
    judge=verbs.judge_with(task, len(turns)),
    refresh=verbs.promote,
    curate=curate,
    loss=verbs.preference_loss(
      model, beta=beta, temperature=temperature, anchor=anchor
    ),
  )
