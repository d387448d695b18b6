"""Verify and revise: an attempt, the policy's verdict on it, another attempt.

The inference of SPOC (arXiv:2506.06923) and PAG (arXiv:2506.10406): the policy
judges its own attempt, and attempts again only where its verdict is that it is
wrong. The task's reply reads the verdict (tasks/roles.py, `with_critic`): after
`<ok>` the episode ends. The last attempt is the answer. No oracle is asked.
"""

import jax.numpy as jnp

from sitrain.strategies.choose import last_written
from sitrain.strategies.meter import parallel
from sitrain.strategies.strategy import (
  Play,
  Strategy,
  check_at_least,
  one_round,
  row_tokens,
)
from sitrain.types import Task


def make(
  play: Play, task: Task, *, turns: tuple[int, ...], rounds: int = 2
) -> Strategy:
  """rounds: attempts, the first included; the last is not judged.

  turns: the limits of an attempt and of a verdict; one number is both.
  """
  check_at_least("rounds", rounds, 2)
  count = 2 * rounds - 1
  limits = tuple((turns[0], turns[:2][-1])[k % 2] for k in range(count))
  tokens = row_tokens(task, limits)

  def answer(keys, state, problems):
    rows = play(keys, state, problems, samples=1, turns=limits)
    turn = last_written(rows, count, every=2)
    return one_round(rows, jnp.arange(len(keys)), turn)

  return Strategy(
    answer,
    cost=lambda prompt: parallel(prompt + tokens, 1),
    rows=1, turns=count, context=count, needs="verdicts", grows="rounds",
    every=2, varied=False,
  )
