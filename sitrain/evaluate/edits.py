"""How much of an attempt the next one rewrites."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from rapidfuzz.distance import Indel

BINS = 20


def edit_ratio(before: Sequence[Any], after: Sequence[Any]) -> float:
  """Insertions and deletions over the length of both: 0 same, 1 all new.

  (len(a) + len(b) - 2 LCS(a, b)) / (len(a) + len(b)) on tokens, 0 for two
  empty attempts (Kumar et al. 2024, section 4: "normalized by the total length
  of both the responses"). Substitutions count twice, or the ratio of attempts
  of equal length could not exceed 0.5.
  """
  return Indel.normalized_distance(list(before), list(after))


def tokens_of_turn(
  tokens: Int[np.ndarray, " T"], turn: Int[np.ndarray, " T"], number: int
) -> list[int]:
  """The tokens of turn `number` of one episode."""
  return tokens[turn == number].tolist()


def edit_ratios(
  tokens: Int[np.ndarray, "B T"],
  turn: Int[np.ndarray, "B T"],
  *,
  before: int,
  after: int,
) -> Float[np.ndarray, " B"]:
  """The edit ratio of turn `after` to turn `before` in every episode."""
  pairs = [
    (tokens_of_turn(t, k, before), tokens_of_turn(t, k, after))
    for t, k in zip(tokens, turn)
  ]
  return np.array([edit_ratio(a, b) for a, b in pairs], float)


def histogram(ratios: Float[np.ndarray, " B"]) -> dict[str, object]:
  """20 bins over [0, 1] as a density, the mean, and the share of copies.

  Without ratios the densities are 0, and mean and copies are NaN.
  """
  count, edges = np.histogram(ratios, bins=BINS, range=(0.0, 1.0))
  total = max(int(count.sum()), 1)
  some = ratios.size > 0
  return {
    "edges": edges.tolist(),
    "density": (count * BINS / total).tolist(),
    "mean": float(np.mean(ratios)) if some else np.nan,
    "copied": float(np.mean(ratios == 0.0)) if some else np.nan,
  }
