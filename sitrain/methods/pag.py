"""PAG: the policy judges its own attempts, and revises those it calls wrong.

Jiang et al. 2025 (arXiv:2506.10406). Turns are an attempt, a verdict on it, and
after the verdict "wrong" another attempt. Each is rewarded for itself, the
verdict for its truth, a revision also with `bonus` times what it has gained,
and advantages are normalised for each role over the round. The paper trains
this by PPO with a critic and finds REINFORCE unstable; here there is no critic:
ratios are clipped as in PPO, and `baseline` stands in the critic's place.
"""

import jax
import jax.numpy as jnp

from sitrain.curate.advantage import BASELINES, ESTIMATES
from sitrain.curate.policy import own_turns
from sitrain.curate.roles import revision_bonus, role_whiten
from sitrain.methods import reinforce, verbs
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=("shape", "kl_weights", "discount"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  bonus: float = 1.0, whitened: bool = True, beta: float = 0.0,
  kl: str = "none", clip: float = 0.2, baseline: str = "leave_one_out",
  estimate: str = "leave_one_out", aggregate: str = "episode_mean", **options,
) -> Method:
  """PAG on a task in which the policy judges itself, as chain.critic.

  Args:
    bonus: alpha, of revisions; curate.roles.revision_bonus.
    whitened: whether advantages are normalised by role; curate.roles.
    beta: of the KL of all turns; the paper has none.
    baseline: as in reinforce.make; "same_outcome" compares verdicts on right
      attempts of a problem with each other, and verdicts on wrong ones.
    estimate: "as_it_is" leaves the normalisation by role alone.

  Raises ValueError for a task without verdicts of the policy.
  """
  verbs.check_verdicts(task, turns)
  verbs.check_choice("estimate", estimate, ESTIMATES)
  method = reinforce.make(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=(beta,) * len(turns), kl=kl, clip=clip, baseline=baseline,
    estimate="as_it_is", aggregate=aggregate, **options,
  )
  over_turns = jax.vmap(ESTIMATES[estimate], in_axes=1, out_axes=1)

  def curate(key, state, problems, episodes, verdict):
    known = own_turns(episodes, verdict.known).astype(jnp.float32)
    value = verdict.reward + revision_bonus(verdict.reward, bonus)
    ids = BASELINES[baseline](episodes.problem, verdict.reward)
    gain = over_turns(value, ids, known)
    gain = role_whiten(gain, known) if whitened else gain
    gained = verdict._replace(reward=gain)
    return method.curate(key, state, problems, episodes, gained)

  return method._replace(curate=curate)
