"""ORPO: imitation of the chosen rows, with the odds of the rejected beside it.

Hong et al. 2024 (arXiv:2403.07691), on pairs of own samples; no reference. The
likelihood is a mean over the chosen tokens of the batch, as in TRL.
"""

from sitrain.losses.preference import bradley_terry, orpo_margin
from sitrain.methods import preference, verbs
from sitrain.types import Method, Task


@verbs.forwards(preference.build, without=(
  "margin", "objective", "reference", "per_token"
))
def make(
  models: dict, task: Task, optimizer, *, weight: float = 0.1,
  anchor: float = 1.0, **options,
) -> Method:
  """`weight` is lambda of the paper, of the odds; `anchor` of the likelihood.

  Options: see preference.build.
  """

  def objective(margin, label):
    return weight * bradley_terry(margin, label)

  return preference.build(
    models, task, optimizer, objective=objective, anchor=anchor,
    margin=lambda logprob, reference_logprob: orpo_margin(logprob),
    reference="none", per_token=True, **options,
  )
