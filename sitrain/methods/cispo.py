"""CISPO: the weight of a token is clipped, and never its gradient.

MiniMax 2025 (arXiv:2506.13585): rare tokens whose ratio leaves PPO's range, as
those that begin a correction, would have no gradient there.
"""

import math

from sitrain.losses import policy_gradient as losses
from sitrain.methods import checks, reinforce, verbs
from sitrain.types import Method, Task


@verbs.forwards(reinforce.build, without=("shape", "kl_weights", "objective"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  clip: float = math.inf, clip_high: float = 4.0, beta: float = 0.0,
  kl: str = "none", estimate: str = "group_normalise",
  aggregate: str = "token_mean", **options,
) -> Method:
  """Weights are at most 1 + clip_high, and at least 1 - clip; inf: open.

  5 is the largest weight of ScaleRL (arXiv:2510.13786). `beta` weighs a KL
  where `kl` names one; `anchor` is PDR's weight of the likelihood of what is
  right (arXiv:2510.01123). Options: see reinforce.build.
  """
  checks.check_clip(clip)
  checks.check_above_zero(clip_high=clip_high)

  def objective(logprob, old_logprob, advantage, masks):
    return losses.cispo(
      logprob, old_logprob, advantage, clip=clip, clip_high=clip_high
    )

  return reinforce.build(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=(beta,) * len(turns), kl=kl, objective=objective,
    estimate=estimate, aggregate=aggregate, **options,
  )
