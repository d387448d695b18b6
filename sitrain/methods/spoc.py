"""SPOC: solutions and verdicts in one pass, each message with its own reward.

Zhao et al. 2025 (arXiv:2506.06923), the variant that the paper calls RLOO (Alg.
4): the reward of message l, less the mean of message l of the problem's
samples, over their deviation. The paper gives neither the KL's weights nor its
estimator. Its RAFT (Alg. 3) is spoc_raft.py; its PairSFT is not here.
"""

from sitrain.curate import roles
from sitrain.curate.policy import own_turns
from sitrain.judge.roles import binary
from sitrain.judge.verifier import written
from sitrain.methods import checks, reinforce, verbs
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=(
  "shape", "kl_weights", "discount", "baseline", "estimate"
))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  rewards: str = "corr", normalise: str = "per_index", named: bool = True,
  beta: float = 0.01, beta_verdict: float = 0.01, **options,
) -> Method:
  """SPOC on a task in which the policy judges itself, as chain.critic.

  Args:
    rewards: "corr", each message for itself; "last" and "all", the ablations:
      curate.roles.message_rewards.
    normalise: "per_index", as the algorithm, or "all", as the text of the
      paper: curate.roles.message_normalise.
    named: whether a verdict must also name what is wrong to be paid; the
      paper's are a yes or a no.
    beta: eta of solutions, the weight of their KL.
    beta_verdict: eta of verdicts.

  Raises ValueError for a task without verdicts of the policy.
  """
  checks.check_verdicts(task, turns)
  task = task if named else binary(task)
  checks.check_choice("rewards", rewards, roles.RULES)
  checks.check_choice("normalise", normalise, roles.NORMALISED)
  method = reinforce.make(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=((beta, beta_verdict) * len(turns))[: len(turns)],
    estimate="as_it_is", **options,
  )

  def curate(key, state, problems, episodes, verdict):
    value, paid, trained = roles.message_rewards(
      verdict.reward, own_turns(episodes, verdict.known),
      written(episodes, len(turns)), rule=rewards,
    )
    gain = roles.message_normalise(
      value, episodes.problem, paid, over=normalise
    )
    gained = verdict._replace(reward=gain, known=verdict.known * trained)
    return method.curate(key, state, problems, episodes, gained)

  return method._replace(curate=curate)
