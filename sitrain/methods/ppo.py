"""PPO: a critic gives the value of prefixes, GAE the advantage of tokens.

Schulman et al. 2017 (arXiv:1707.06347), with the KL in the reward of each token
(Ouyang et al. 2022) and the clipped value loss of its implementations. The
critic is a model of its own with the policy's learning rate. The policy's loss
sums over the tokens of a row by default, where most code takes their mean.
"""

from sitrain.curate.policy import gae_batch
from sitrain.losses.reduce import AGGREGATES, aggregate_of
from sitrain.methods import checks, objectives, verbs
from sitrain.models.heads import value_rows
from sitrain.models.logprobs import score_rows
from sitrain.models.roles import check_trained, params_of
from sitrain.types import ActorCriticTargets, Method, Task, ValueTargets


def make(
  models: dict, task: Task, optimizer, *, problems: int,
  turns: tuple[int, ...], samples: int = 1, beta: float = 0.01,
  temperature: float = 1.0, clip: float = 0.2, max_ratio: float = 10.0,
  discount: float = 1.0, decay: float = 0.95, value_clip: float = 0.2,
  value_weight: float = 1.0, aggregate: str = "episode_sum", slots: int = 0,
) -> Method:
  """Trains the roles "policy" and "critic"; `slots` as in reinforce.make.

  `beta` weighs the KL of each token, `clip` limits importance ratios on both
  sides, `discount` and `decay` are GAE's gamma and lambda; `value_clip` limits
  the change of values in a round. `aggregate` is that of reinforce.build.
  """
  checks.check_turns(task, turns)
  checks.check_choice("aggregate", aggregate, AGGREGATES)
  checks.check_role(models, "critic", head="scalar")
  model, critic = models["policy"], models["critic"]
  rows = dict(samples=samples, turns=turns, temperature=temperature)

  def curate(key, state, problems, episodes, verdict):
    check_trained(state, "policy", "critic")
    reference = params_of(state, "reference")
    scores = score_rows(model, reference, episodes, temperature=temperature)
    value = value_rows(critic, params_of(state, "critic"), episodes)
    batch, returns = gae_batch(
      episodes, verdict, value, discount=discount, decay=decay,
      kl_weight=beta, reference_logprob=scores.logprob,
    )
    targets = ActorCriticTargets(batch.targets, ValueTargets(returns, value))
    return batch._replace(targets=targets), {}

  policy = verbs.policy_loss(
    model, turns=len(turns), temperature=temperature, clip=clip, kl="k1",
    clip_high=clip, max_ratio=max_ratio,
    aggregate=aggregate_of(aggregate, max(turns)),
  )
  value = objectives.value_loss(critic, clip=value_clip, weight=value_weight)
  return Method(
    pose=verbs.pose_from(task, problems),
    generate=verbs.play_with(model, task, slots=slots, **rows),
    judge=verbs.judge_with(task, len(turns)), refresh=verbs.keep_state,
    curate=curate, loss=objectives.join_losses(policy, value),
  )
