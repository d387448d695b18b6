"""Sequential refinement: each attempt reads the one before it, and no other.

SR of arXiv:2510.01123: PDR with one draft a round, so that the workspace is the
last attempt. Each round is a new context of bounded length, where self_refine
goes on in one dialogue that grows. RISE's window of two attempts
(arXiv:2407.18219) is the same context.
"""

from sitrain.strategies import pdr
from sitrain.strategies.strategy import Play, Strategy
from sitrain.types import Task


def make(
  play: Play, task: Task, *, turns: tuple[int, ...], rounds: int = 4
) -> Strategy:
  """rounds: attempts, the first included; the last one is the answer."""
  base = pdr.make(
    play, task, turns=turns, samples=1, rounds=rounds, keep=1, distil="random"
  )
  return base._replace(grows="rounds")
