"""B-STaR's monitors of exploration and exploitation, in closed form.

Of each problem: n samples, of which those with known = 0 do not exist. A value
that fewer samples than k leave undefined is NaN, never 0. Equal ids of
`response` are equal texts; ids say nothing else.

Source: Zeng et al. 2024, arXiv:2412.17256, sections 2 and 3.
"""

import math
from collections.abc import Iterable
from functools import cache

import numpy as np
from jaxtyping import Float, Int

_MAX_SAMPLES = 1000  # samples a problem; binomials beyond overflow


def pass_at_least(
  right: Float[np.ndarray, "P n"],
  known: Float[np.ndarray, "P n"],
  response: Int[np.ndarray, "P n"],
  k: int,
  least: int,
) -> Float[np.ndarray, " P"]:
  """Pass@K-S: P(k samples have at least `least` different right responses).

  Over subsets of k of the known samples; with least = 1 it is pass@k. Raises
  ValueError unless 1 <= least <= k <= n <= 1000.
  """
  _check(right.shape[1], k, least)
  found = []
  for ok, seen, ids in zip(right, known > 0, response):
    sizes = np.unique(ids[seen & (ok > 0)], return_counts=True)[1].tolist()
    found.append(_reach(int(seen.sum()), tuple(sorted(sizes)), k, least))
  return np.array(found, float)


@cache
def _reach(n: int, sizes: tuple[int, ...], k: int, least: int) -> float:
  """P(k of n meet at least `least` of disjoint groups of these sizes)."""
  if n < k:
    return math.nan
  # ways[p, d]: to pick p samples from d of the groups so far; d = least: more.
  ways = np.zeros((k + 1, least + 1), dtype=object)
  ways[0, 0] = 1
  for size in sizes:
    after = ways.copy()
    for picked in range(1, min(size, k) + 1):
      moved = math.comb(size, picked) * ways[: k + 1 - picked]
      after[picked:, 1:] += moved[:, :-1]
      after[picked:, least] += moved[:, least]
    ways = after
  rest = n - sum(sizes)
  hits = sum(
    math.comb(rest, k - picked) * ways[picked, least] for picked in range(k + 1)
  )
  return hits / math.comb(n, k)


def reward_at(
  score: Float[np.ndarray, "P n"],
  right: Float[np.ndarray, "P n"],
  known: Float[np.ndarray, "P n"],
  k: int,
  top: int,
) -> Float[np.ndarray, " P"]:
  """Reward@K-S: P(the `top` samples of k by score are all right).

  Over subsets of k of the known samples, and over the order of equal scores;
  with top = 1 it is best-of-k. Raises ValueError unless 1 <= top <= k <= n <=
  1000.
  """
  _check(right.shape[1], k, top)
  found = []
  for value, ok, seen in zip(score, right > 0, known > 0):
    # From the highest score on: (samples, right ones) with each score.
    ranks = [
      (int(same.sum()), int((same & ok).sum()))
      for one in np.unique(value[seen])[::-1]
      for same in [seen & (value == one)]
    ]
    found.append(_top_right(tuple(ranks), k, top))
  return np.array(found, float)


@cache
def _top_right(
  ranks: tuple[tuple[int, int], ...], k: int, top: int
) -> float:
  """P(the first `top` of k are right), of groups (samples, right ones)."""
  below = sum(size for size, _ in ranks)
  if below < k:
    return math.nan
  everything, hits = math.comb(below, k), 0
  ways = [1] + [0] * (top - 1)  # to pick j < top samples so far, all right
  for size, good in ranks:
    below -= size
    after = [0] * top
    for j, count in enumerate(ways):
      for picked in range(min(size, k - j) + 1):
        if j + picked < top:
          after[j + picked] += count * math.comb(good, picked)
          continue
        # Of those picked here, top - j come first, any of them equally likely.
        first = top - j
        share = math.comb(good, first) / math.comb(size, first)
        rest = math.comb(below, k - j - picked)
        hits += count * math.comb(size, picked) * share * rest
    ways = after
  return hits / everything


def balance(
  right: Float[np.ndarray, "P n"],
  known: Float[np.ndarray, "P n"],
  response: Int[np.ndarray, "P n"],
  selected: Float[np.ndarray, "P n"],
  *,
  wanted: int,
) -> Float[np.ndarray, " P"]:
  """B-STaR's balance score: min(u / wanted, 1) u / s of each problem.

  s of its samples are selected for training, among them u different right
  responses: enough to learn from (exploration), and little else
  (exploitation). 0 where nothing is selected; NaN where no sample is known.
  `wanted` is n* of the paper (8 in its code). Raises ValueError for wanted < 1.
  """
  if wanted < 1:
    raise ValueError(f"wanted={wanted} responses a problem: give 1 or more")
  chosen = (known > 0) & (selected > 0)
  unique = np.array([
    len(np.unique(ids[mask & (ok > 0)]))
    for ids, mask, ok in zip(response, chosen, right)
  ], float)
  size = np.maximum(chosen.sum(axis=1), 1)
  score = np.minimum(unique / wanted, 1.0) * unique / size
  return np.where((known > 0).any(axis=1), score, np.nan)


def number(responses: Iterable[Iterable[str]]) -> Int[np.ndarray, "P n"]:
  """Ids of responses: equal ones for equal texts, over all problems."""
  ids: dict[str, int] = {}
  return np.array(
    [[ids.setdefault(text, len(ids)) for text in row] for row in responses], int
  )


def _check(n: int, k: int, s: int) -> None:
  if not 1 <= s <= k <= n <= _MAX_SAMPLES:
    raise ValueError(
      f"{s} of k={k} of n={n} samples: need 1 <= {s} <= k <= n <= "
      f"{_MAX_SAMPLES}"
    )
