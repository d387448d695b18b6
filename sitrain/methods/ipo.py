"""IPO: pairs whose margin has a target, so that it cannot grow without end.

Azar et al. 2023 (arXiv:2310.12036), on pairs of own samples in rounds, as
methods/dpo.py.
"""

import functools

from sitrain.losses.preference import dpo_margin, squared_margin
from sitrain.methods import checks, preference, verbs
from sitrain.types import Method, Task


@verbs.forwards(preference.build, without=("margin", "objective"))
def make(
  models: dict, task: Task, optimizer, *, beta: float = 0.1,
  per_token: bool = True, **options,
) -> Method:
  """The target of the margin is 1 / (2 beta) nat, of means over tokens.

  The paper writes sums; `per_token` is what TRL has, in agreement, it says,
  with the authors. Options: see preference.build.
  """
  checks.check_above_zero(beta=beta)
  return preference.build(
    models, task, optimizer, margin=functools.partial(dpo_margin, beta=1.0),
    objective=functools.partial(squared_margin, beta=beta),
    per_token=per_token, **options,
  )
