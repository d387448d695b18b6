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


def binary(task: Task) -> Task:
  """The task that pays a verdict 1 iff it says rightly whether it is right.

  A task may ask a verdict for more, as for the first wrong step; PAG, SPOC and
  ReVISE ask for no more. A verdict on an attempt that could not be judged is
  not known. Rewards of attempts stay. Raises ValueError for a task without
  verdicts of the policy.
  """
  if task.accepts == ():
    raise ValueError(
      "named=False pays verdicts of the policy, and this task has none: take "
      "one with them, such as chain.critic, or leave named out"
    )

  def verify(answer, episodes: Episodes, turns: int) -> Verdict:
    reward, known, *_ = task.verify(answer, episodes, turns)
    xp = reward.__array_namespace__()
    before, judged = (
      xp.concatenate([xp.ones_like(x[:, :1]), x[:, :-1]], axis=1)
      for x in (reward, known)
    )
    true = task.accepts(episodes, turns) == (before >= FULL)
    is_verdict = np.arange(turns) % roles(task) == 1
    return Verdict(
      xp.where(is_verdict, true.astype(reward.dtype), reward),
      xp.where(is_verdict, known * (judged > 0), known),
    )

  return task._replace(verify=verify, rewards=())


def _share(x, where) -> Mean:
  total, count = (y.sum(dtype=np.float32) for y in (x & where, where))
  return Mean(total, count)
