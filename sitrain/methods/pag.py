"""PAG: the policy judges its own attempts, and revises those it calls wrong.

Jiang et al. 2025 (arXiv:2506.10406). Turns are an attempt, a verdict on it, and
after the verdict "wrong" another attempt. Each is rewarded for itself, a
revision also with `bonus` times its gain, and advantages are normalised for
each role over the round. The paper trains this by PPO and finds REINFORCE
unstable; here ratios are clipped as in PPO, and there is no critic.
"""

import jax

from sitrain.curate import roles
from sitrain.curate.advantage import BASELINES, ESTIMATES
from sitrain.curate.policy import own_turns
from sitrain.judge.roles import binary
from sitrain.methods import checks, reinforce, verbs
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=("shape", "kl_weights", "discount"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  bonus: float = 1.0, named: bool = False, kl: str = "none", clip: float = 0.2,
  aggregate: str = "episode_mean", whitened: bool = True, beta: float = 0.0,
  baseline: str = "leave_one_out", estimate: str = "leave_one_out", **options,
) -> Method:
  """PAG on a task in which the policy judges itself, as chain.critic.

  Args:
    bonus: alpha, of revisions; curate.roles.revision_bonus.
    named: whether a verdict must also name what is wrong to be paid.
    whitened: whether advantages are normalised by role; curate.roles.
    beta: of the KL of all turns; the paper has none.
    baseline: as in reinforce.make; "same_outcome" compares verdicts on right
      attempts of a problem with each other, and verdicts on wrong ones.
    estimate: "as_it_is" leaves the normalisation by role alone.

  Raises ValueError for a task without such verdicts, and beta without a KL.
  """
  checks.check_verdicts(task, turns)
  checks.check_kl(beta, kl)
  checks.check_finite(bonus=bonus)
  task = task if named else binary(task)
  checks.check_choice("estimate", estimate, ESTIMATES)
  method = reinforce.make(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=(beta,) * len(turns), kl=kl, clip=clip, baseline=baseline,
    estimate="as_it_is", aggregate=aggregate, **options,
  )

  def curate(key, state, problems, episodes, verdict):
    known = 1.0 * own_turns(episodes, verdict.known)
    value = verdict.reward + roles.revision_bonus(verdict.reward, bonus)
    ids = BASELINES[baseline](episodes.problem, verdict.reward)
    gain = jax.vmap(ESTIMATES[estimate], 1, 1)(value, ids, known)
    gain = roles.role_whiten(gain, known) if whitened else gain
    gained = verdict._replace(reward=gain)
    return method.curate(key, state, problems, episodes, gained)

  return method._replace(curate=curate)
