"""RLOO: REINFORCE with the mean of a problem's other samples as baseline.

Ahmadian et al. 2024 (arXiv:2402.14740): the KL is part of the reward of a
sequence, and there is no clipping. Here samples may be used for more than one
gradient step, with importance ratios that are truncated.
"""

from sitrain.methods import reinforce, verbs
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=("shape", "kl_weights", "estimate"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  beta: float = 0.03, kl: str = "k1", **options,
) -> Method:
  """`beta` weighs the KL of a whole turn. Options: see reinforce.make."""
  return reinforce.make(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=(beta,) * len(turns), kl=kl, estimate="leave_one_out",
    **options,
  )
