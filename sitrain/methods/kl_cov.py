"""KL-Cov: a few tokens that would cost the most entropy are held in place.

Cui et al. 2025 (arXiv:2505.22617): the tokens of the largest covariance between
advantage and log-probability pay for each nat that they move from the policy
before the update. Covariances are those of a round, before its first gradient
step.
"""

import functools
import math

from sitrain.curate.select import covariance, top_share
from sitrain.losses.policy_gradient import policy_gradient
from sitrain.losses.reduce import aggregate_of
from sitrain.methods import reinforce, verbs
from sitrain.methods.objectives import policy_objective
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=(
  "shape", "kl_weights", "kl", "share_prompts", "clip", "clip_high", "dual"
))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  share: float = 2e-4, weight: float = 1.0, temperature: float = 1.0,
  max_ratio: float = 10.0, estimate: str = "group_normalise",
  aggregate: str = "token_mean", **options,
) -> Method:
  """`weight` is the price of a nat, for a `share` of the tokens, at least one.

  Ratios are not clipped. Options: see reinforce.make.
  """
  method = reinforce.make(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=(0.0,) * len(turns), kl="none", temperature=temperature,
    estimate=estimate, aggregate=aggregate, max_ratio=max_ratio, **options,
  )

  def curate(key, state, problems, episodes, verdict):
    batch, metrics = method.curate(key, state, problems, episodes, verdict)
    targets = batch.targets
    found = covariance(targets.advantage, targets.old_logprob, batch.mask)
    chosen = top_share(found, batch.mask, share)
    targets = targets._replace(
      kl_weight=weight * chosen, reference_logprob=targets.old_logprob
    )
    return batch._replace(targets=targets), metrics

  return method._replace(curate=curate, loss=policy_objective(
    models["policy"], turns=len(turns), temperature=temperature,
    objective=functools.partial(
      policy_gradient, clip=math.inf, clip_high=math.inf, most=max_ratio
    ),
    aggregate=aggregate_of(aggregate, max(turns)), kl="absolute",
  ))
