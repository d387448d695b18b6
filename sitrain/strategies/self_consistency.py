"""Self-consistency: the majority of the final answers of n attempts.

Wang et al. 2022 (arXiv:2203.11171): sample, extract answers, take the most
frequent; attempts without an answer do not vote. Ties go to the attempt with
the higher mean log-probability. With samples=1 it is the plain attempt.
"""

import jax.numpy as jnp

from sitrain.judge.drafts import mean_logprob
from sitrain.judge.verifier import final_answers
from sitrain.strategies.choose import majority
from sitrain.strategies.meter import parallel
from sitrain.strategies.strategy import (
  Play,
  Strategy,
  check_at_least,
  one_round,
)
from sitrain.types import Task


def make(
  play: Play, task: Task, *, turns: tuple[int, ...], samples: int = 8
) -> Strategy:
  """samples: attempts at each problem, each a call of its own."""
  check_at_least("samples", samples, 1)

  def answer(keys, state, problems):
    rows = play(keys, state, problems, samples=samples, turns=turns[:1])
    final = jnp.asarray(final_answers(task, rows, 1)).reshape(-1, samples)
    best = majority(final, mean_logprob(rows, 1).reshape(-1, samples))
    first = jnp.arange(len(final)) * samples
    return one_round(rows, first + best, jnp.ones_like(best))

  return Strategy(
    answer,
    cost=lambda prompt: parallel(prompt + turns[0], samples),
    rows=samples, turns=1, context=1, grows="samples", varied=samples > 1,
  )
