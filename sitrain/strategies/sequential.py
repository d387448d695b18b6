"""Sequential sampling: the majority over the attempts of one dialogue.

RISE's inference without an oracle (Qu et al. 2024, arXiv:2407.18219): always
run all K turns, always ask for another attempt, and vote over the turns
(m1@tK). The paper's code has K = 5. How it breaks ties is not known here: as in
self_consistency the higher mean log-probability decides. RISE may keep only the
last attempts in the context; that is sequential_refinement.
"""

import jax.numpy as jnp

from sitrain.judge.drafts import mean_logprob
from sitrain.judge.verifier import final_answers
from sitrain.strategies import self_refine
from sitrain.strategies.choose import majority
from sitrain.strategies.strategy import (
  Play,
  Strategy,
  one_round,
  repeat_last,
)
from sitrain.types import Task


def make(
  play: Play, task: Task, *, turns: tuple[int, ...], rounds: int = 5
) -> Strategy:
  """rounds: attempts, the first included. Limits beyond `turns` are the last.
  """
  base = self_refine.make(play, task, turns=turns, rounds=rounds)
  limits = repeat_last(turns, rounds)

  def answer(keys, state, problems):
    rows = play(keys, state, problems, samples=1, turns=limits)
    final = jnp.asarray(final_answers(task, rows, rounds))
    turn = majority(final, mean_logprob(rows, rounds))
    return one_round(rows, jnp.arange(len(keys)), turn + 1)

  return base._replace(answer=answer)
