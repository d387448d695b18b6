"""SPIRAL: one policy plays both seats of a zero-sum game against itself.

Liu et al. 2025 (arXiv:2506.24119): every turn gets the final reward of its seat
less that seat's moving average. Here this moves once an iteration, by the mean
over its games, not by each, and REINFORCE is in the place of PPO.
"""

import math

import jax.numpy as jnp

from sitrain.curate.advantage import to_tokens
from sitrain.curate.policy import own_turns, token_batch
from sitrain.curate.roles import role_advantage
from sitrain.methods import checks, verbs
from sitrain.types import Method, Task

SEATS = 2


def make(
  models: dict, task: Task, optimizer, *, problems: int, turns: tuple[int, ...],
  samples: int = 1, rate: float = 0.05, beta: float = 0.0,
  temperature: float = 1.0, slots: int = 0,
) -> Method:
  """Turn k is of seat (k - 1) % 2; its reward is the final score of the seat.

  `rate` is that of the moving averages, `beta` weighs the exact KL to the
  reference (the paper has none), `slots` is as in reinforce.make.
  """
  checks.check_turns(task, turns, least=SEATS)
  model = models["policy"]
  rows = dict(samples=samples, turns=turns, temperature=temperature)

  def advantage(baseline, verdict):
    return role_advantage(verdict.reward, verdict.known, baseline, rate=rate)

  def refresh(state, problems, episodes, verdict):
    read = state.memory["next"]  # before this round's games
    memory = {"read": read, "next": advantage(read, verdict)[1]}
    return state._replace(memory=memory)

  def curate(key, state, problems, episodes, verdict):
    gain, _ = advantage(state.memory["read"], verdict)
    return token_batch(
      episodes, to_tokens(gain, episodes.turn),
      own_turns(episodes, verdict.known), kl_weights=(beta,) * len(turns),
      reference_logprob=jnp.zeros_like(episodes.logprob),
    ), {}

  return Method(
    pose=verbs.pose_from(task, problems),
    generate=verbs.play_with(model, task, slots=slots, **rows),
    judge=verbs.judge_with(task, len(turns)), refresh=refresh, curate=curate,
    loss=verbs.policy_loss(
      model, turns=len(turns), temperature=temperature, clip=math.inf,
      clip_high=math.inf, max_ratio=10.0, kl="exact" if beta else "none",
    ),
    memory=lambda key: {x: jnp.zeros(SEATS) for x in ("read", "next")},
  )
