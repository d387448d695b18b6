"""Which turns say the same, token for token: monitors of copies.

NumPy arrays stay NumPy arrays, as in verifier.py.
"""

import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from sitrain.judge.groups import FULL
from sitrain.types import Episodes, Mean, Metrics, Verdict

WANTED = 8  # n* in the code of B-STaR


def copy_metrics(
  episodes: Episodes,
  verdict: Verdict,
  own: Bool[Array | np.ndarray, "B K"],
  samples: int,
) -> Metrics:
  """Of turns that the policy has sampled (`own`):

  judge/copied_k    wrong attempts that turn k repeats / wrong attempts k - 1
  judge/balance_k   B-STaR's balance score, of `samples` rows of each problem,
                    which stand together; not of lone samples

  Turns are known or not as in `verdict`.
  """
  turns = verdict.reward.shape[1]
  if turns < 2 and samples < 2:
    return {}
  text, found = hashes(episodes, turns), {}
  for k in range(turns):
    if k:
      same = text[:, k] == text[:, k - 1]
      found[f"judge/copied_{k + 1}"] = repeated_mistakes(
        same, own[:, k], verdict, k
      )
    if samples > 1:
      seen = (verdict.known[:, k] > 0) & own[:, k]
      groups = [
        x.reshape(-1, samples) for x in (verdict.reward[:, k], seen, text[:, k])
      ]
      score, judged = balance(*groups), groups[1].any(axis=1)
      found[f"judge/balance_{k + 1}"] = Mean(
        (score * judged).sum(dtype=np.float32), judged.sum(dtype=np.float32)
      )
  return found


def hashes(
  episodes: Episodes, turns: int
) -> UInt32[Array | np.ndarray, "B K"]:
  """A number for the tokens of each turn, in their order.

  Equal turns have equal numbers, and two that differ have equal ones with a
  chance of about 2 ** -32. Numbers of mixed tokens are added up, since sums
  take less time to compile and to run than aligning the turns.
  """
  xp = episodes.tokens.__array_namespace__()
  word = lambda x: x.astype(np.uint32)
  found = []
  for k in range(1, turns + 1):
    own = episodes.turn == k
    place = xp.cumsum(own, axis=1)
    mixed = word(episodes.tokens) * np.uint32(0x9E3779B1)
    mixed = mixed + word(place) * np.uint32(0x85EBCA77)
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
      mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    mixed = mixed ^ (mixed >> np.uint32(15))
    found.append(xp.where(own, mixed, np.uint32(0)).sum(1, dtype=np.uint32))
  return xp.stack(found, axis=1)


def repeated_mistakes(
  same: Bool[Array | np.ndarray, " B"],
  own: Bool[Array | np.ndarray, " B"],
  verdict: Verdict,
  k: int,
) -> Mean:
  """Wrong attempts that turn k (from 0) repeats / wrong attempts before it.

  `same`: turn k equals the one before; `own`: the policy has sampled turn k. A
  copy of a right attempt is no fault, and does not count.
  """
  known, reward = verdict.known[:, k - 1] > 0, verdict.reward[:, k - 1]
  wrong = own & known & (reward < FULL)
  total, count = (
    x.sum(dtype=np.float32) for x in (same & wrong, wrong)
  )
  return Mean(total, count)


def balance(
  paid: Float[Array | np.ndarray, "P G"],
  seen: Bool[Array | np.ndarray, "P G"],
  text: UInt32[Array | np.ndarray, "P G"],
) -> Float[Array | np.ndarray, " P"]:
  """B-STaR's balance score of each problem, all its known samples selected.

  As evaluate.exploration.balance, with n* = 8, or G where that is less; 0 where
  nothing is known.
  """
  xp = paid.__array_namespace__()
  right = seen & (paid >= FULL)
  same = (text[:, :, None] == text[:, None]) & right[:, None]
  earlier = np.tril(np.ones(2 * paid.shape[1:], bool), -1)
  unique = (right & ~(same & earlier).any(axis=2)).sum(axis=1)
  size = xp.where(seen.any(axis=1), seen.sum(axis=1), 1)
  wanted = min(WANTED, paid.shape[1])
  return xp.where(unique < wanted, unique / wanted, 1.0) * unique / size
