"""SimPO: pairs without a reference, compared by means over tokens.

Meng et al. 2024 (arXiv:2405.14734), on pairs of own samples.
"""

from sitrain.losses.preference import bradley_terry, simpo_margin
from sitrain.methods import checks, preference, verbs
from sitrain.types import Method, Task


@verbs.forwards(preference.build, without=(
  "margin", "objective", "reference", "per_token"
))
def make(
  models: dict, task: Task, optimizer, *, beta: float = 2.0,
  target: float = 1.0, **options,
) -> Method:
  """`target` is gamma of the paper, what the margin should exceed.

  Options: see preference.build.
  """
  checks.check_above_zero(beta=beta)

  def margin(logprob, reference_logprob):
    return simpo_margin(logprob, beta=beta, target=target)

  return preference.build(
    models, task, optimizer, margin=margin, objective=bradley_terry,
    reference="none", per_token=True, **options,
  )
