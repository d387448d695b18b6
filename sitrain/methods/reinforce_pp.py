"""REINFORCE++: PPO without a critic, whitened over the tokens of a round.

Hu 2025 (arXiv:2501.03262): the return of a token is the reward to come less
beta times the KL to come, and it is compared with all tokens of the round, not
with other samples of its problem. The loss sums over the tokens of a row by
default, where the author's code (OpenRLHF) takes their mean.
"""

import jax.numpy as jnp

from sitrain.curate.policy import gae_batch
from sitrain.losses.reduce import AGGREGATES, aggregate_of
from sitrain.methods import checks, verbs
from sitrain.models.logprobs import score_rows
from sitrain.models.roles import params_of
from sitrain.types import Method, Task


def make(
  models: dict, task: Task, optimizer, *, problems: int,
  turns: tuple[int, ...], samples: int = 1, beta: float = 0.01,
  temperature: float = 1.0, clip: float = 0.2, max_ratio: float = 10.0,
  aggregate: str = "episode_sum", slots: int = 0,
) -> Method:
  """One sample a problem is enough: the whole round is the baseline.

  `beta` weighs the KL of each token (k1, in the reward), `clip` limits the
  importance ratio on both sides, `max_ratio` truncates it. `aggregate`
  is that of reinforce.build. `slots` rows are decoded at a time; 0: all.
  """
  checks.check_turns(task, turns)
  checks.check_choice("aggregate", aggregate, AGGREGATES)
  model = models["policy"]
  rows = dict(samples=samples, turns=turns, temperature=temperature)

  def curate(key, state, problems, episodes, verdict):
    held = params_of(state, "reference")
    scores = score_rows(model, held, episodes, temperature=temperature)
    batch, _ = gae_batch(
      episodes, verdict, jnp.zeros_like(scores.logprob), discount=1.0,
      decay=1.0, kl_weight=beta, reference_logprob=scores.logprob,
    )
    return batch, {}

  return Method(
    pose=verbs.pose_from(task, problems),
    generate=verbs.play_with(model, task, slots=slots, **rows),
    judge=verbs.judge_with(task, len(turns)),
    refresh=verbs.keep_state,
    curate=curate,
    loss=verbs.policy_loss(
      model, turns=len(turns), temperature=temperature, clip=clip,
      clip_high=clip, max_ratio=max_ratio, kl="k1",
      aggregate=aggregate_of(aggregate, max(turns)),
    ),
  )
