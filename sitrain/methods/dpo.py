"""DPO: the policy's own best and worst samples of a problem as pairs.

Rafailov et al. 2023 (arXiv:2305.18290) for the loss; in rounds, as in Pang et
al. 2024 (arXiv:2404.19733): in each iteration the current policy samples and
becomes the reference of the gradient steps that follow (iterative DPO). One
pair a problem. With reference="held" it stays the one of the stage.
"""

import functools

from sitrain.losses.preference import bradley_terry, dpo_margin
from sitrain.methods import checks, preference, verbs
from sitrain.types import Method, Task


@verbs.forwards(preference.build, without=("margin", "objective"))
def make(
  models: dict, task: Task, optimizer, *, beta: float = 0.1, **options
) -> Method:
  """`beta` is DPO's; with `smoothing` it is cDPO, and with `per_token` the
  length-normalised one. Options: see preference.build.
  """
  checks.check_above_zero(beta=beta)
  return preference.build(
    models, task, optimizer, margin=functools.partial(dpo_margin, beta=beta),
    objective=bradley_terry, **options,
  )
