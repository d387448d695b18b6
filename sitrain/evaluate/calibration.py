"""Whether a policy is right as often as it is confident.

Rows with known = 0 do not count. What no row or no difference defines is NaN.
Source: Kadavath et al. 2022, "Language Models (Mostly) Know What They Know",
arXiv:2207.05221, section 3 and its appendix on calibration metrics.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

BINS = 10


class Reliability(NamedTuple):
  """A reliability table; empty bins are left out."""

  confidence: Float[np.ndarray, " M"]  # mean of each bin
  accuracy: Float[np.ndarray, " M"]
  count: Float[np.ndarray, " M"]


def rows_of(
  confidence: Float[np.ndarray, "..."],
  right: Float[np.ndarray, "..."],
  known: Float[np.ndarray, "..."],
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
  """Confidence and right (1 or 0) of the known rows.

  Raises ValueError for a confidence outside [0, 1], NaN included.
  """
  seen = np.asarray(known) > 0
  p = np.asarray(confidence, float)[seen]
  y = np.asarray(right, float)[seen]
  if not np.all((p >= 0) & (p <= 1)):
    wrong = p[~((p >= 0) & (p <= 1))][0]
    raise ValueError(f"confidence {wrong}: give probabilities from 0 to 1")
  return p, y


def by_count(
  p: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"], bins: int = BINS
) -> Reliability:
  """Bins of as many rows each, in the order of confidence, as the source has.

  Rows of equal confidence count with their mean accuracy, so that their order
  does not matter where a bin ends among them.
  """
  values, which = np.unique(p, return_inverse=True)
  accuracy = np.bincount(which, y) / np.bincount(which) if len(values) else y
  order = np.argsort(p, kind="stable")
  parts = [x for x in np.array_split(order, bins) if x.size]
  return _table(parts, p, accuracy[which] if len(values) else y)


def by_width(
  p: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"], bins: int = BINS
) -> Reliability:
  """Bins of equal width over [0, 1] (Guo et al. 2017, arXiv:1706.04599)."""
  place = np.minimum((p * bins).astype(int), bins - 1)
  parts = [np.flatnonzero(place == k) for k in range(bins)]
  return _table([x for x in parts if x.size], p, y)


def _table(parts, p, y) -> Reliability:
  means = [[np.mean(x[part]) for part in parts] for x in (p, y)]
  return Reliability(
    np.array(means[0], float), np.array(means[1], float),
    np.array([part.size for part in parts], float),
  )


def expected_error(table: Reliability) -> float:
  """ECE: sum over bins of their share of rows * abs(confidence - accuracy)."""
  gap = np.abs(table.confidence - table.accuracy)
  return _mean(gap, table.count)


def root_mean_square_error(table: Reliability) -> float:
  """The root of the mean of the squares of the same differences."""
  gap = (table.confidence - table.accuracy) ** 2
  return float(np.sqrt(_mean(gap, table.count)))


def brier(p: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> float:
  """Mean of (p - y)^2; 0.25 for one half always."""
  return _mean((p - y) ** 2, np.ones_like(p))


def auroc(p: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> float:
  """P(a right row is more confident than a wrong one), ties as one half."""
  good, bad = p[y > 0.5], np.sort(p[y <= 0.5])
  if not good.size or not bad.size:
    return float("nan")
  below = np.searchsorted(bad, good, "left")
  up_to = np.searchsorted(bad, good, "right")
  return float(np.mean(below + up_to) / (2 * bad.size))


def summarize(
  confidence: Float[np.ndarray, "..."],
  right: Float[np.ndarray, "..."],
  known: Float[np.ndarray, "..."],
  *,
  bins: int = BINS,
) -> dict[str, object]:
  """All of it, ready for JSON: rows, accuracy, confidence, ece, rms, brier,

  auroc, `sure` = the accuracy of rows with a confidence above one half, and
  `reliability`, the table by count. Raises ValueError as `rows_of`.
  """
  p, y = rows_of(confidence, right, known)
  table, one = by_count(p, y, bins), np.ones_like(p)
  return {
    "rows": int(p.size),
    "accuracy": _mean(y, one),
    "confidence": _mean(p, one),
    "ece": expected_error(table),
    "rms": root_mean_square_error(table),
    "brier": brier(p, y),
    "auroc": auroc(p, y),
    "sure": _mean(y, (p > 0.5).astype(float)),
    "reliability": {k: v.tolist() for k, v in table._asdict().items()},
  }


def _mean(x, weight) -> float:
  total = float(np.sum(weight))
  return float(np.sum(x * weight)) / total if total > 0 else float("nan")
