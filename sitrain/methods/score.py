"""SCoRe: self-correction by two-stage multi-turn RL.

Kumar et al. 2024 (arXiv:2409.12917), sections 5.1 and 5.2. The paper leaves
open how the baseline is grouped, how the KL is estimated and what stage II
refers to; here they are options. `kl="k1"` gives the gradient of Eq. 3 and 4
with discount 0 and fixed contexts of the turns; `kl="exact"`, the default, is
the full-vocabulary KL per token with fixed prefixes: the same for turns of one
token, less noise and a small bias for longer ones.
"""

import jax.numpy as jnp

from sitrain.curate.advantage import progress_bonus
from sitrain.methods import checks, reinforce, verbs
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=("shape", "kl_weights"))
def stage_one(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  beta1: float = 0.01, beta2: float = 0.1, **options,
) -> Method:
  """Eq. 3: reward on the last turn only; a KL anchors the earlier ones.

  Turns before the last get no reward, only beta2 times their KL; the last has
  beta1. With three turns and the result of a two-turn stage as anchor this is
  stage 1(b) of the ICLR version, App. A.1.
  """
  checks.check_turns(task, turns, least=2)
  checks.check_attempts(task)
  last = jnp.arange(len(turns)) == len(turns) - 1
  return reinforce.make(
    models, task, optimizer, turns=turns,
    shape=lambda reward: jnp.where(last, reward, 0.0),
    kl_weights=(beta2,) * (len(turns) - 1) + (beta1,), **options,
  )


@verbs.forwards(reinforce.make, without=("shape", "kl_weights"))
def stage_two(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  bonus: float = 10.0, beta1: float = 0.01, beta2: float = 0.01,
  shaping: str = "bonus", **options,
) -> Method:
  """Eq. 4: every turn rewarded, plus bonus * (r_k - r_{k-1}) on later ones.

  beta2 weighs the KL of all turns but the last; the paper's is beta1, a larger
  one keeps stage I's anchor. `shaping="weight"` multiplies later rewards by
  1 + bonus instead: equal in expectation, since r_{k-1} is fixed once turn k
  is written, and without the variance that its leave-one-out baseline adds.
  `discount` above 0 credits a turn with what comes after it too; the paper has
  0, as with a bonus above 1 / discount a wrong first attempt is rewarded.
  """
  checks.check_turns(task, turns, least=2)
  checks.check_attempts(task)
  checks.check_finite(bonus=bonus)
  checks.check_choice("shaping", shaping, ("bonus", "weight"))
  weight = jnp.where(jnp.arange(len(turns)) > 0, 1.0 + bonus, 1.0)
  shapes = {
    "bonus": lambda reward: reward + progress_bonus(reward, bonus),
    "weight": lambda reward: reward * weight,
  }
  return reinforce.make(
    models, task, optimizer, turns=turns,
    shape=shapes[shaping],
    kl_weights=(beta2,) * (len(turns) - 1) + (beta1,), **options,
  )
