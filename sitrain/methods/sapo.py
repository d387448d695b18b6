"""SAPO: a soft gate in the place of clipping.

arXiv:2511.20347 (2025): the further a ratio is from 1 the less its token
weighs, without an edge behind which it has no gradient.
"""

from sitrain.losses.policy_gradient import importance_ratio, soft_gate
from sitrain.methods import reinforce, verbs
from sitrain.types import Method, Task


@verbs.forwards(reinforce.build, without=(
  "shape", "kl_weights", "objective", "anchor"
))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  positive: float = 1.0, negative: float = 1.05, beta: float = 0.0,
  kl: str = "none", estimate: str = "group_normalise",
  aggregate: str = "episode_mean", **options,
) -> Method:
  """`positive` and `negative`: how steep the gate is, by sign of the advantage.

  `beta` weighs a KL where `kl` names one. Options: see reinforce.build. Raises
  ValueError for a gate that is not above 0.
  """
  if min(positive, negative) <= 0:
    raise ValueError(
      f"positive={positive} and negative={negative}: set both above 0"
    )

  def objective(logprob, old_logprob, advantage, masks):
    ratio = importance_ratio(logprob, old_logprob)
    return soft_gate(ratio, advantage, positive=positive, negative=negative)

  return reinforce.build(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=(beta,) * len(turns), kl=kl, objective=objective,
    estimate=estimate, aggregate=aggregate, **options,
  )
