"""LeDex: RL on explain-and-refine, each with a reward of its own.

Jiang et al. 2024 (arXiv:2405.18649): behind a wrong program the policy writes
an explanation and a refinement. Turns are an attempt, which is context here, a
diagnosis, paid for being the true one, and another attempt. There an executor
has said that the first failed, rewards are similarities (CodeBLEU, embeddings),
and PPO has a critic; here the policy must see the fault itself, rows whose
attempt is right are left out, rewards are 0 and 1, and samples are compared.
"""

import jax.numpy as jnp

from sitrain.judge.groups import FULL
from sitrain.methods import checks, reinforce, verbs
from sitrain.types import OFFLINE, Method, Task


@verbs.forwards(reinforce.make, without=("shape", "kl_weights"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  explain: float = 1.0, beta: float = 0.01, kl: str = "k1", clip: float = 0.2,
  aggregate: str = "episode_mean", **options,
) -> Method:
  """RL on a task in which the policy diagnoses itself, as chain.critic.

  Args:
    explain: what a true diagnosis is paid, beside 1 for a right refinement.
    beta: of the KL of both, in the reward by default, as there.
    discount: 0: a diagnosis is credited with its own reward alone, as the text
      of the paper says; 0.99: with the refinement's, too, as its formula. With
      explain=0 and that it is RL on the end alone.

  Raises ValueError for a task without verdicts of the policy.
  """
  checks.check_verdicts(task, turns, ("attempt", "diagnosis", "refinement"))
  checks.check_from_zero(explain=explain)
  worth = jnp.array([0.0, explain, 1.0])
  method = reinforce.make(
    models, task, optimizer, turns=turns, shape=lambda reward: reward * worth,
    kl_weights=(beta,) * 3, kl=kl, clip=clip, aggregate=aggregate, **options,
  )

  def shaped(episodes, verdict):
    # Marked like one of another policy, a first attempt is read, not trained.
    given = jnp.full_like(episodes.parent, OFFLINE)
    known = verdict.known * (verdict.reward[:, :1] < FULL)
    verdict = verdict._replace(known=known)
    return episodes._replace(parent=given), verdict

  def curate(key, state, problems, *round_):
    return method.curate(key, state, problems, *shaped(*round_))

  def wanted(problems, *round_):
    return method.wanted(problems, *shaped(*round_))

  return method._replace(
    curate=curate, wanted=wanted if method.wanted != () else ()
  )
