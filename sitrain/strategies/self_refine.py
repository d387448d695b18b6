"""Self-Refine: attempts in one dialogue, of which the last is the answer.

Madaan et al. 2023 (arXiv:2303.17651), without the feedback that the paper's
model writes before each new attempt, and so without its stop on "it is
correct": the task's fixed instruction stands there, as in SCoRe. With 2 rounds
it is SCoRe's inference. verify_and_revise has the feedback and the stop.
"""

import jax.numpy as jnp

from sitrain.strategies.choose import last_written
from sitrain.strategies.meter import parallel
from sitrain.strategies.strategy import (
  Play,
  Strategy,
  check_at_least,
  one_round,
  repeat_last,
  row_tokens,
)
from sitrain.types import Task


def make(
  play: Play, task: Task, *, turns: tuple[int, ...], rounds: int = 2
) -> Strategy:
  """rounds: attempts, the first included. Limits beyond `turns` are the last.
  """
  check_at_least("rounds", rounds, 2)
  limits = repeat_last(turns, rounds)
  tokens = row_tokens(task, limits)

  def answer(keys, state, problems):
    rows = play(keys, state, problems, samples=1, turns=limits)
    return one_round(rows, jnp.arange(len(keys)), last_written(rows, rounds))

  return Strategy(
    answer,
    cost=lambda prompt: parallel(prompt + tokens, 1),
    rows=1, turns=rounds, context=rounds, needs="instruction", grows="rounds",
    varied=False,
  )
