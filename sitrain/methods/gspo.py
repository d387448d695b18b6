"""GSPO: importance ratios of whole turns, clipped as such.

arXiv:2507.18071 (2025): a reward is given to a sequence, so the ratio that
corrects for old samples is that of the sequence, per token a geometric mean. It
differs from GRPO only where a round has more than one gradient step.
"""

import jax.numpy as jnp

from sitrain.losses.policy_gradient import clipped, sequence_ratio
from sitrain.methods import checks, reinforce, verbs
from sitrain.types import Method, Task


@verbs.forwards(reinforce.build, without=(
  "shape", "kl_weights", "objective", "anchor"
))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  clip: float = 3e-4, clip_high: float = 4e-4, beta: float = 0.0,
  kl: str = "none", estimate: str = "group_normalise",
  aggregate: str = "episode_mean", **options,
) -> Method:
  """The clips are those of the paper: ratios of turns are close to 1.

  Both are above 0: none stands for the other, as -1 does in reinforce.make.
  `beta` weighs a KL where `kl` names one. Options: see reinforce.build.
  """
  checks.check_clip(clip)
  checks.check_above_zero(clip_high=clip_high)

  def objective(logprob, old_logprob, advantage, masks):
    ratio = sum(
      jnp.where(mask > 0, sequence_ratio(logprob, old_logprob, mask), 0.0)
      for mask in masks
    )
    return clipped(ratio, advantage, clip=clip, clip_high=clip_high)

  return reinforce.build(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=(beta,) * len(turns), kl=kl, objective=objective,
    estimate=estimate, aggregate=aggregate, **options,
  )
