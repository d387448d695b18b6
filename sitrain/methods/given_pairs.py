"""Preference learning on given pairs: a chosen and a rejected answer a row.

Rafailov et al. 2023 (arXiv:2305.18290), as in their paper: nothing is sampled,
and the reference is the policy that the stage begins with. The given turns of a
row are its pair, the chosen one first.
"""

from collections.abc import Callable

import jax.numpy as jnp

from sitrain.losses.reduce import mean
from sitrain.methods import checks, dpo, ipo, orpo, simpo, verbs
from sitrain.rollout import contexts
from sitrain.types import Method, Task, Verdict

SAMPLED = ("samples", "rule", "slots")  # options of pairs of own samples


def build(
  maker: Callable, models: dict, task: Task, optimizer, *,
  turns: tuple[int, ...], **options,
) -> Method:
  """The method of `maker` on given pairs; `turns` has one token limit.

  Raises ValueError for more turns, and for rows without a pair that fits.
  """
  checks.check_pairs(task, turns)
  method = maker(models, task, optimizer, turns=turns, samples=2, **options)

  def generate(keys, state, problems):
    both = [
      contexts.given(
        contexts.only_turn(problems, k, task.eos), reply=task.reply,
        turns=turns, eos=task.eos,
      )
      for k in (1, 2)
    ]
    return contexts.side_by_side(tuple(both), keys.shape[0])

  def judge(key, state, problems, episodes):
    fits = contexts.fits(problems, turns * 2, task.eos)[episodes.problem]
    reward, cut = 1.0 - jnp.arange(len(fits)) % 2, 1.0 - fits
    return Verdict(reward[:, None], 1.0 - cut[:, None]), {
      "judge/too_long": mean(cut, jnp.ones_like(cut))
    }

  return method._replace(generate=generate, judge=judge, wanted=())


@verbs.forwards(dpo.make, without=SAMPLED)
def make(
  models: dict, task: Task, optimizer, *, reference: str = "held", **options
) -> Method:
  """DPO. Options: see methods/dpo.py."""
  return build(
    dpo.make, models, task, optimizer, reference=reference, **options
  )


@verbs.forwards(ipo.make, without=SAMPLED)
def ipo_loss(
  models: dict, task: Task, optimizer, *, reference: str = "held", **options
) -> Method:
  """IPO. Options: see methods/ipo.py."""
  return build(
    ipo.make, models, task, optimizer, reference=reference, **options
  )


@verbs.forwards(simpo.make, without=SAMPLED)
def simpo_loss(models: dict, task: Task, optimizer, **options) -> Method:
  """SimPO. Options: see methods/simpo.py."""
  return build(simpo.make, models, task, optimizer, **options)


@verbs.forwards(orpo.make, without=SAMPLED)
def orpo_loss(models: dict, task: Task, optimizer, **options) -> Method:
  """ORPO. Options: see methods/orpo.py."""
  return build(orpo.make, models, task, optimizer, **options)
