"""Best of n, chosen by the task's own verifier: an oracle, an upper bound.

The answer is the attempt with the highest reward, the first of equal ones. No
strategy without an oracle can choose better among the same attempts: they are
those of self_consistency with the same seed. Its accuracy is pass@n.
"""

import jax.numpy as jnp

from sitrain.judge.verifier import verify
from sitrain.strategies import self_consistency
from sitrain.strategies.strategy import Play, Strategy, one_round
from sitrain.types import Task


def make(
  play: Play, task: Task, *, turns: tuple[int, ...], samples: int = 8
) -> Strategy:
  """samples: attempts at each problem, each a call of its own."""
  base = self_consistency.make(play, task, turns=turns, samples=samples)

  def answer(keys, state, problems):
    rows = play(keys, state, problems, samples=samples, turns=turns[:1])
    verdict = verify(task, problems, rows, 1)
    reward = jnp.where(verdict.known > 0, verdict.reward, -jnp.inf)
    best = jnp.argmax(reward.reshape(-1, samples), axis=1)
    first = jnp.arange(len(best)) * samples
    return one_round(rows, first + best, jnp.ones_like(best))

  return base._replace(answer=answer, oracle=True)
