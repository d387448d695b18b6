"""Which turns are attempts, and how true the policy's verdicts on them are.

NumPy arrays stay NumPy arrays, as in verifier.py.
"""

import numpy as np
from jaxtyping import Array, Bool

from sitrain.judge.groups import FULL
from sitrain.types import Episodes, Mean, Metrics, Task, Verdict


def roles(task: Task) -> int:
  """Of how many roles turns are: 1, or 2 where every second is a verdict."""
  return 1 if task.accepts == () else 2


def attempts(task: Task, turns: int) -> tuple[int, ...]:
  """The numbers of the turns that are attempts, from 1 on."""
  return tuple(range(1, turns + 1, roles(task)))


def truth_metrics(
  task: Task,
  episodes: Episodes,
  verdict: Verdict,
  own: Bool[Array | np.ndarray, "B K"],
) -> Metrics:
  """Of verdicts of the policy, turn k, on attempts whose reward is known:

  judge/true_k     verdicts that say rightly whether the attempt is right
  judge/caught_k   of wrong attempts, those that are not accepted
  judge/cleared_k  of right attempts, those that are

  {} where a task has none. A part that a verdict names is not looked at.
  """
  if task.accepts == ():
    return {}
  turns = verdict.reward.shape[1]
  accepts, found = task.accepts(episodes, turns), {}
  for k in range(1, turns, 2):
    known = (verdict.known[:, k - 1] > 0) & own[:, k]
    right = verdict.reward[:, k - 1] >= FULL
    said = accepts[:, k]
    found[f"judge/true_{k + 1}"] = _share(said == right, known)
    found[f"judge/caught_{k + 1}"] = _share(~said, known & ~right)
    found[f"judge/cleared_{k + 1}"] = _share(said, known & right)
  return found


def _share(x, where) -> Mean:
  total, count = (y.sum(dtype=np.float32) for y in (x & where, where))
  return Mean(total, count)
