"""Clip-Cov: a few tokens that would cost the most entropy have no gradient.

Cui et al. 2025 (arXiv:2505.22617): the entropy falls as fast as likely tokens
are rewarded, and a small share of the tokens does most of it. On DAPO's mean
over tokens; covariances are those of a round, before its first gradient step.
"""

from sitrain.curate.select import clip_covariance, row_noise
from sitrain.methods import reinforce, verbs
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=(
  "shape", "kl_weights", "kl", "share_prompts"
))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  share: float = 2e-4, low: float = 1.0, high: float = 5.0, clip: float = 0.2,
  estimate: str = "group_normalise", aggregate: str = "token_mean", **options,
) -> Method:
  """`share` of the tokens, and at least one, of those with a covariance between
  `low` and `high`. Options: see reinforce.make.
  """
  method = reinforce.make(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=(0.0,) * len(turns), kl="none", clip=clip, estimate=estimate,
    aggregate=aggregate, **options,
  )

  def curate(key, state, problems, episodes, verdict):
    batch, metrics = method.curate(key, state, problems, episodes, verdict)
    targets = batch.targets
    kept = clip_covariance(
      targets.advantage, targets.old_logprob, batch.mask,
      row_noise(key, batch.tokens), share=share, low=low, high=high,
    )
    targets = targets._replace(advantage=kept)
    return batch._replace(targets=targets), metrics

  return method._replace(curate=curate)
