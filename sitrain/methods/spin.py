"""SPIN: prefer the given solution to what the policy writes itself.

Chen et al. 2024 (arXiv:2401.01335): in each iteration the current policy
samples and becomes the reference ("the opponent") of the steps that follow. The
verifier's verdict is only logged. Pairs of equal rows are left out; the paper's
own code keeps the samples of the round before, which is not done here.
"""

import jax.numpy as jnp

from sitrain.curate import pairs
from sitrain.methods import checks, verbs
from sitrain.models.roles import params_of
from sitrain.rollout import contexts
from sitrain.types import Method, Task


def make(
  models: dict, task: Task, optimizer, *, problems: int,
  turns: tuple[int, ...], beta: float = 0.1, anchor: float = 0.0,
  temperature: float = 1.0, slots: int = 0,
) -> Method:
  """One pair a problem: (its solution, a sample), all turns trained.

  `beta` is the paper's lambda, and `anchor` weighs the likelihood of the given
  solutions in addition. `slots` rows are decoded at a time; 0: all.
  """
  checks.check_turns(task, turns)
  checks.check_above_zero(beta=beta)
  checks.check_solutions(task, turns)
  model = models["policy"]
  play = dict(turns=turns, temperature=temperature, slots=slots)

  def curate(key, state, problems, episodes, verdict):
    solution = contexts.given(
      problems, reply=task.reply, turns=turns, eos=task.eos
    )
    own = contexts.widen(episodes, solution.tokens.shape[1])
    fits = contexts.fits(problems, turns, task.eos)
    keep = fits & pairs.differ(solution, own)
    reference = pairs.score_pairs(
      model, params_of(state, "reference"), solution, own,
      temperature=temperature,
    )
    batch = pairs.pair_batch(
      solution, own, reference, label=jnp.ones(keep.shape),
      trained=jnp.broadcast_to(keep[:, None], (*keep.shape, len(turns))),
    )
    return batch, {"curate/pairs": verbs.share(keep)}

  return Method(
    pose=verbs.pose_from(task, problems),
    generate=verbs.play_with(model, task, samples=1, **play),
    judge=verbs.judge_with(task, len(turns)), refresh=verbs.promote,
    curate=curate,
    loss=verbs.preference_loss(
      model, beta=beta, temperature=temperature, anchor=anchor
    ),
  )
