"""What the samples of a problem say together: monitors of groups of rows.

NumPy arrays stay NumPy arrays, as in verifier.py.
"""

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sitrain.types import Mean, Metrics, Verdict

FULL = 1.0 - 1e-6  # the least reward that is not partial: sums are rounded


def group_metrics(
  reward: Float[Array | np.ndarray, "B K"],
  known: Float[Array | np.ndarray, "B K"],
  final: Int[Array | np.ndarray, "B K"],
  samples: int,
) -> Metrics:
  """Of each turn, over the problems that have a known reward:

  judge/no_signal_k   all known rewards of the problem are equal
  judge/pass_k        any of its samples has a full reward: pass@samples
  judge/majority_k    its most frequent answer has one: maj@samples
  judge/distinct_k    distinct answers, as a share of its samples with one

  Rows of a problem stand together, `samples` each; `final` are ids of answers,
  below 0 without one. Of equally frequent answers the first counts. Nothing
  for lone samples.
  """
  if samples < 2:
    return {}
  xp = reward.__array_namespace__()
  found = {}
  for k in range(reward.shape[1]):
    paid, seen, answer = (
      x[:, k].reshape(-1, samples) for x in (reward, known, final)
    )
    seen = seen > 0
    judged = seen.any(axis=1)
    most = xp.where(seen, paid, -np.inf).max(axis=1)
    least = xp.where(seen, paid, np.inf).min(axis=1)
    right = seen & (paid >= FULL)
    answered = seen & (answer >= 0)
    same = (answer[:, :, None] == answer[:, None]) & answered[:, None]
    votes = xp.where(answered, same.sum(axis=2), 0)
    first = xp.argmax(votes, axis=1)[:, None]
    voted = xp.take_along_axis(right, first, axis=1)[:, 0]
    earlier = np.tril(np.ones((samples, samples), bool), -1)
    repeated = (same & earlier).any(axis=2) & answered
    has = answered.any(axis=1)
    kinds = (answered & ~repeated).sum(axis=1)
    kinds = kinds / xp.where(has, answered.sum(axis=1), 1)
    number = k + 1
    found[f"judge/no_signal_{number}"] = masked_mean(most == least, judged)
    found[f"judge/pass_{number}"] = masked_mean(right.any(axis=1), judged)
    found[f"judge/majority_{number}"] = masked_mean(voted & has, judged)
    found[f"judge/distinct_{number}"] = masked_mean(kinds, has)
  return found


def right_turns(verdict: Verdict) -> Bool[Array, "B K"]:
  """Whether a turn is known to have the full reward."""
  return (verdict.known > 0) & (verdict.reward >= FULL)


def masked_mean(x, mask) -> Mean:
  """Sum and count under a mask; what stands outside of it may be NaN."""
  where = mask.__array_namespace__().where
  x = where(mask > 0, x, np.float32(0))
  total, count = (y.sum(dtype=np.float32) for y in (x * mask, mask))
  return Mean(total, count)
