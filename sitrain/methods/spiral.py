"""SPIRAL: one policy plays both seats of a zero-sum game against itself.

Liu et al. 2025 (arXiv:2506.24119): every turn gets the final reward of its seat
less that seat's baseline, a moving average (role-conditioned advantage). Here a
baseline moves once an iteration, by the mean over its games, and the gradient
is REINFORCE's; the paper moves it with every game, and uses PPO's loss.
"""

import math

import jax.numpy as jnp

from sitrain.curate.advantage import role_advantage, to_tokens
from sitrain.curate.policy import own_turns, token_batch
from sitrain.methods import verbs
from sitrain.types import Method, Task

SEATS = 2


def make(
  models: dict, task: Task, optimizer, *, problems: int,
  turns: tuple[int, ...], samples: int = 1, rate: float = 0.05,
  temperature: float = 1.0, max_ratio: float = 10.0, slots: int = 0,
) -> Method:
  """Turn k is of seat (k - 1) % 2, and its reward what the seat got in the end.

  `rate` is that of the moving averages, `slots` as in reinforce.make.
  """
  verbs.check_turns(task, turns, least=SEATS)
  model = models["policy"]
  rows = dict(samples=samples, turns=turns, temperature=temperature)

  def advantage(memory, verdict):
    reward, known = verdict.reward, verdict.known
    return role_advantage(reward, known, memory["read"], rate=rate)

  def refresh(state, problems, episodes, verdict):
    memory = {"read": state.memory["next"]}  # before this round's games
    memory["next"] = advantage(memory, verdict)[1]
    return state._replace(memory=memory)

  def curate(key, state, problems, episodes, verdict):
    gain, _ = advantage(state.memory, verdict)
    return token_batch(
      episodes, to_tokens(gain, episodes.turn),
      own_turns(episodes, verdict.known), kl_weights=(0.0,) * len(turns),
      reference_logprob=jnp.zeros_like(episodes.logprob),
    ), {}

  return Method(
    pose=verbs.pose_from(task, problems),
    generate=verbs.play_with(model, task, slots=slots, **rows),
    judge=verbs.judge_with(task, len(turns)), refresh=refresh, curate=curate,
    loss=verbs.policy_loss(
      model, turns=len(turns), temperature=temperature, clip=math.inf,
      clip_high=math.inf, max_ratio=max_ratio, kl="none",
    ),
    memory=lambda key: {x: jnp.zeros(SEATS) for x in ("read", "next")},
  )
