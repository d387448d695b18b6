"""Standard multi-turn RL: both attempts rewarded, no stage I, no bonus.

The baseline that keeps its first answer (Kumar et al. 2024, section 4). The
paper trains it on the second attempt's pairs alone; here both turns are
trained, which is the stronger baseline.
"""

from sitrain.judge.roles import binary
from sitrain.methods import reinforce, verbs
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=("shape", "kl_weights"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  beta1: float = 0.01, beta2: float = 0.01, named: bool = True, **options,
) -> Method:
  """Each turn gets its own reward; beta2 weighs the KL of all but the last.

  With beta2 = beta1 nothing anchors the first attempt; a larger beta2 is the
  same anchor as SCoRe's. Where turns are verdicts of the policy, `named` off
  pays them for saying rightly whether the attempt is right, whatever they name:
  PAG's control, which has that pay, too. Options: see reinforce.make.
  """
  task = task if named else binary(task)
  return reinforce.make(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=(beta2,) * (len(turns) - 1) + (beta1,), **options,
  )
