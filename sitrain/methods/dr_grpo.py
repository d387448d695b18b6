"""Dr. GRPO: GRPO without what divides by deviations and by lengths.

Liu et al. 2025 (arXiv:2503.20783): a problem does not weigh more where its
rewards vary little, nor a token less in a longer row. Token losses are summed
and divided by one constant, the limit of a turn. No KL.
"""

from sitrain.methods import reinforce, verbs
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=(
  "shape", "kl_weights", "estimate", "aggregate"
))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  beta: float = 0.0, kl: str = "none", clip: float = 0.2, **options,
) -> Method:
  """`beta` weighs a KL where `kl` names one. Options: see reinforce.make."""
  return reinforce.make(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=(beta,) * len(turns), kl=kl, estimate="group_mean",
    aggregate="constant_length", clip=clip, **options,
  )
