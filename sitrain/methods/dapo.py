"""DAPO: GRPO for long answers, without a KL.

Yu et al. 2025 (arXiv:2503.14476): ratios are clipped higher above 1 than below,
every token of the batch counts alike, turns near their limit are charged, and
problems whose samples are all right or all wrong are drawn again, which is
`rounds` of the stage (sitrain/train.py).
"""

import jax.numpy as jnp

from sitrain.curate.advantage import overlong, per_turn
from sitrain.methods import reinforce, verbs
from sitrain.types import Method, Task


@verbs.forwards(reinforce.make, without=("shape", "kl_weights", "kl"))
def make(
  models: dict, task: Task, optimizer, *, turns: tuple[int, ...],
  clip: float = 0.2, clip_high: float = 0.28, margin: int = 0,
  estimate: str = "group_normalise", aggregate: str = "token_mean", **options,
) -> Method:
  """`margin` tokens before the limit of a turn the charge begins; 0: none.

  The charge is no part of the reward that says which problems are drawn again.
  Options: see reinforce.make. Raises ValueError for a margin that is no part of
  every turn.
  """
  if not 0 <= margin < min(turns):
    raise ValueError(
      f"margin={margin}: set it to 0, or below {min(turns)}, the least of turns"
    )
  method = reinforce.make(
    models, task, optimizer, turns=turns, shape=lambda reward: reward,
    kl_weights=(0.0,) * len(turns), kl="none", estimate=estimate,
    aggregate=aggregate, clip=clip, clip_high=clip_high, **options,
  )
  if not margin:
    return method

  def curate(key, state, problems, episodes, verdict):
    ones = jnp.ones_like(episodes.logprob)
    length = per_turn(ones, episodes.turn, len(turns))
    charge = overlong(length, limit=turns, margin=margin)
    charged = verdict._replace(reward=verdict.reward + charge)
    batch, metrics = method.curate(key, state, problems, episodes, charged)
    return batch, metrics | {
      "curate/overlong": verbs.share((charge < 0).any(axis=1))
    }

  return method._replace(curate=curate)
