"""GiGPO: rows are compared with rows, and turns with turns of the same state.

Feng et al. 2025 (arXiv:2505.10978), with `discount`, `weight` and `estimate` of
the authors' code and scripts, and the loss of GRPO. A state is there what the
environment shows, here tokens.
"""

import jax.numpy as jnp

from sitrain.curate.advantage import ESTIMATES
from sitrain.curate.anchors import STATES, accompanied, anchors, two_levels
from sitrain.curate.policy import own_turns
from sitrain.judge.verifier import written
from sitrain.losses.reduce import mean
from sitrain.methods import checks, reinforce, verbs
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
  """Rewards of turns add up; other options: see reinforce.make.

  Args:
    estimate: of both levels; in a deviation's units: group_normalise_sample.
    weight: omega, of the steps' advantages; 0: those of episodes alone.
    state: what of its past is a turn's state: "text", all of it, or "reply",
      what the task said last. ValueError where a task never says anything.
  """
  checks.check_choice("state", state, STATES)
  if state == "reply" and columns_of(task, (0, 0))[1] == 0:
    raise ValueError(f"state={state!r}: this task has no replies: set 'text'")
  checks.check_choice("estimate", estimate, ESTIMATES)
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
