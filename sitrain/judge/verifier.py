"""The task's own verifier as a judge, with what it says put into numbers.

Arrays of NumPy stay so: a judge on the host must not touch the device, where
every small operation would wait for the waves that are being sampled.
"""

import numpy as np
from jaxtyping import Array, Bool

from sitrain.types import Episodes, Mean, Metrics, Problems, Task, Verdict


def verify(
  task: Task, problems: Problems, episodes: Episodes, turns: int
) -> Verdict:
  """One reward per turn of every episode, from the answer of its problem."""
  return task.verify(problems.answer[episodes.problem], episodes, turns)


def truncated(
  episodes: Episodes, turns: int, eos: tuple[int, ...]
) -> Bool[Array | np.ndarray, "B K"]:
  """Turns that were cut at their limit: written, but without an end token."""
  inside = episodes.turn[:, None] == np.arange(1, turns + 1)[:, None]
  ends = (episodes.tokens[..., None] == np.array(eos, np.int32)).any(-1)
  return inside.any(-1) & ~(inside & ends[:, None]).any(-1)


def verdict_metrics(
  task: Task, episodes: Episodes, verdict: Verdict
) -> Metrics:
  """Per turn: rewards, cuts, texts without an answer, unknowns, and changes.

  unknown counts what the verifier failed on; it is no part of any reward.
  """
  turns = verdict.reward.shape[1]
  final = [task.final(episodes, k + 1) for k in range(turns)]
  rows = np.ones(verdict.reward.shape[0], np.float32)
  cut = truncated(episodes, turns, task.eos)
  # A reward that is not known may be anything, and 0 times it need not be 0.
  where = verdict.reward.__array_namespace__().where
  right = where(verdict.known > 0, verdict.reward, np.float32(0))
  metrics = {}
  for k in range(turns):
    known = verdict.known[:, k]
    metrics[f"judge/reward_{k + 1}"] = _mean(right[:, k], known)
    metrics[f"generate/truncated_{k + 1}"] = _mean(cut[:, k], rows)
    metrics[f"judge/malformed_{k + 1}"] = _mean(final[k] < 0, rows)
    metrics[f"judge/unknown_{k + 1}"] = _mean(1 - known, rows)
    length = (episodes.turn == k + 1).sum(axis=1)
    metrics[f"generate/length_{k + 1}"] = _mean(length, rows)
    if k:
      both = known * verdict.known[:, k - 1]
      was, now = right[:, k - 1], right[:, k]
      metrics[f"judge/corrected_{k + 1}"] = _mean((1 - was) * now, both)
      metrics[f"judge/spoiled_{k + 1}"] = _mean(was * (1 - now), both)
      metrics[f"judge/changed_{k + 1}"] = _mean(final[k] != final[k - 1], rows)
  return metrics


def _mean(x, mask) -> Mean:
  total, count = (y.sum(dtype=np.float32) for y in (x * mask, mask))
  return Mean(total, count)
