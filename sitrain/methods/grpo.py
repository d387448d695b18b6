"""GRPO: samples of a problem are compared, in units of their deviation.

Shao et al. 2024 (arXiv:2402.03300), Eq. 3 and section 4.1.2, with outcome
rewards: the loss is the mean over the rows of the means over their tokens. The
reward is the verifier's or that of a held reward model.
"""

import jax.numpy as jnp

from sitrain.judge.verifier import written
from sitrain.losses.reduce import mean
from sitrain.methods import checks, reinforce, verbs
from sitrain.models import heads
from sitrain.models.roles import params_of
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=("shape", "kl_weights"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  beta: float = 0.04, kl: str = "k3", clip: float = 0.2,
  estimate: str = "group_normalise", aggregate: str = "episode_mean",
  reward_role: str = "", **options,
) -> Method:
  """`beta` weighs the KL, `clip` limits the importance ratio.

  With `estimate` group_normalise_sample and `aggregate` token_mean it is what
  verl ships. Options: see reinforce.build.

  `reward_role` names a role with a scalar head that scores whole rows: the last
  turn that a row has gets its score, and the verifier's rewards are only
  reported. "": the verifier's.
  """
  method = reinforce.make(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=(beta,) * len(turns), kl=kl, clip=clip,
    estimate=estimate, aggregate=aggregate, **options,
  )
  if not reward_role:
    return method
  checks.check_role(models, reward_role, head="scalar")

  def curate(key, state, problems, episodes, verdict):
    score = heads.score_rows(
      models[reward_role], params_of(state, reward_role), episodes
    )
    # A reply may have ended a row before its last turn.
    there = written(episodes, len(turns))
    last = there & (jnp.cumsum(there[:, ::-1], axis=1)[:, ::-1] == 1)
    scored = verdict._replace(reward=jnp.where(last, score[:, None], 0.0))
    batch, metrics = method.curate(key, state, problems, episodes, scored)
    known = jnp.sum(last * verdict.known, axis=1)
    right = jnp.sum(last * (verdict.reward > 0), axis=1) * known
    return batch, metrics | {
      "curate/score_right": mean(score, right),
      "curate/score_wrong": mean(score, known - right),
    }

  # The role's scores differ where the verifier's rewards are equal.
  return method._replace(curate=curate, wanted=())
