"""RL on the first attempt alone: the baseline without self-correction.

Kumar et al. 2024, Eq. 2 and Table 4 ("w/o multi-turn training").
"""

from sitrain.methods import reinforce, verbs
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=("shape", "kl_weights"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  beta1: float = 0.01, **options,
) -> Method:
  """One turn, rewarded; `beta1` weighs its KL. Options: see reinforce.make."""
  return reinforce.make(
    models, task, optimizer, turns=turns[:1], shape=lambda reward: reward,
    kl_weights=(beta1,), **options,
  )
