"""GiGPO: rows are compared with rows, and turns with turns of the same state.

Feng et al. 2025 (arXiv:2505.10978): to an episode's advantage comes that of
each step, among all steps of the problem's rows that begin in one state: there
what the environment shows, here tokens. `discount`, `weight` and `estimate` are
those of the authors' code and scripts; the loss is GRPO's.
"""

import jax.numpy as jnp

from sitrain.curate.advantage import ESTIMATES
from sitrain.curate.anchors import STATES, accompanied, anchors, two_levels
from sitrain.curate.policy import own_turns
from sitrain.judge.verifier import written
from sitrain.losses.reduce import mean
from sitrain.methods import reinforce, verbs
from sitrain.rollout.play import columns_of
from sitrain.types import Method, Task


@verbs.forwards(
  reinforce.make, without=("shape", "kl_weights", "baseline", "offline")
)
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  discount: float = 0.95, weight: float = 1.0, state: str = "text",
  estimate: str = "group_mean", beta: float = 0.01, kl: str = "k3",
  clip: float = 0.2, aggregate: str = "episode_mean", **options,
) -> Method:
  """`weight` is omega, that of the steps; `discount` of the rewards to come.

  `state`: what of its past is a turn's state: "text", all of it, or "reply",
  what the task said last. `estimate`: of both levels; in units of a deviation:
  group_normalise_sample. Rewards of turns add up. Other options: see
  reinforce.make. Raises ValueError for "reply" where the task has none.
  """
  verbs.check_choice("state", state, STATES)
  if state == "reply" and columns_of(task, (0, 0))[1] == 0:
    raise ValueError(f"state={state!r}: this task has no replies: set 'text'")
  verbs.check_choice("estimate", estimate, ESTIMATES)
  method = reinforce.make(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=(beta,) * len(turns), kl=kl, clip=clip, estimate="as_it_is",
    aggregate=aggregate, **options,
  )

  def curate(key, held, problems, episodes, verdict):
    anchor = anchors(episodes, len(turns), state=state)
    gain, counted = two_levels(
      verdict.reward, own_turns(episodes, verdict.known),
      written(episodes, len(turns)), episodes.problem, anchor,
      estimate=ESTIMATES[estimate], discount=discount, weight=weight,
    )
    known = counted.astype(jnp.float32)
    gained = verdict._replace(reward=gain, known=known)
    batch, metrics = method.curate(key, held, problems, episodes, gained)
    compared = accompanied(anchor, counted).astype(jnp.float32)
    return batch, metrics | {"curate/compared": mean(compared, known)}

  return method._replace(curate=curate)
