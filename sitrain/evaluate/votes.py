"""pass@k and majority votes over k of n samples, in closed form.

A vote counts the ids of final answers. Attempts without an answer (-1) use up
budget but do not vote, so they win only where no attempt has an answer. Ties
are broken uniformly. Attempts with equal answers may be judged differently (by
their steps), so a vote returns one of the winning attempts, drawn uniformly:
the values below are expectations over subsets, ties and winning attempts.
"""

import math

import numpy as np
from jaxtyping import Float, Int

_MAX_SAMPLES = 1000  # samples a problem; binomials beyond overflow


def pass_at(
  right: Float[np.ndarray, "P n"], k: int
) -> Float[np.ndarray, " P"]:
  """P(one of k samples is right) = 1 - C(n - c, k) / C(n, k), c right of n.

  Without bias (Chen et al. 2021, eq. 1). Raises ValueError unless
  1 <= k <= n <= 1000.
  """
  n = right.shape[1]
  _check(k, n)
  wrong = n - np.rint(np.sum(right, axis=1)).astype(int)
  none = [math.comb(w, k) / math.comb(n, k) for w in range(n + 1)]
  return 1.0 - np.array(none)[wrong]


def majority_at(
  final: Int[np.ndarray, "P n"], right: Float[np.ndarray, "P n"], k: int
) -> Float[np.ndarray, " P"]:
  """Expected accuracy of the majority of k samples, drawn without replacement.

  sum over answers a of P(a wins) * (share of a's samples that are right), plus
  P(no sample has an answer) * (share of those that are right). Raises
  ValueError unless 1 <= k <= n <= 1000.
  """
  problems, n = final.shape
  _check(k, n)
  owner, own, good, others, missing = _vote_counts(final, right)
  table = np.concatenate([own[:, None], missing[owner, None], others], axis=1)
  # Many rows are equal: each distinct one is computed once.
  kinds, which = np.unique(table, axis=0, return_inverse=True)
  chance = _win_probability(kinds[:, 0], kinds[:, 2:], kinds[:, 1], k, n)
  value = good / np.maximum(own, 1) * chance[which.reshape(-1)]
  total = np.zeros(problems)
  np.add.at(total, owner, value)
  no_answer = np.sum(right * (final < 0), axis=1) / np.maximum(missing, 1)
  none = [math.comb(m, k) / math.comb(n, k) for m in range(n + 1)]
  return total + no_answer * np.array(none)[missing]


def vote(
  final: Int[np.ndarray, "R n"], right: Float[np.ndarray, "R n"]
) -> Float[np.ndarray, " R"]:
  """Expected accuracy of the majority of all n samples of each row."""
  same = final[:, :, None] == final[:, None]
  votes = np.where(final < 0, 0, np.sum(same, axis=2))
  top = votes == np.max(votes, axis=1, keepdims=True)
  # Tied answers have equally many attempts, so a uniform answer and then a
  # uniform attempt with it is a uniform choice among all these attempts.
  return np.sum(right * top, axis=1) / np.sum(top, axis=1)


def vote_of_episodes(
  rng: np.random.Generator,
  final: Int[np.ndarray, "P n K"],
  right: Float[np.ndarray, "P n K"],
  k: int,
  *,
  subsets: int = 64,
) -> Float[np.ndarray, " P"]:
  """Majority over all attempts of k of n episodes.

  Attempts of one episode go together, which has no short closed form: a mean
  over random subsets, or the one value where k == n.
  """
  problems, n = final.shape[:2]
  _check(k, n)
  total, rounds = np.zeros(problems), 1 if k == n else subsets
  for _ in range(rounds):
    order = np.argsort(rng.random((problems, n)), axis=1)[:, :k, None]
    chosen = [
      np.take_along_axis(x, order, axis=1).reshape(problems, -1)
      for x in (final, right)
    ]
    total += vote(*chosen)
  return total / rounds


def _check(k: int, n: int) -> None:
  if not 1 <= k <= n <= _MAX_SAMPLES:
    raise ValueError(
      f"k={k} of n={n} samples: need 1 <= k <= n <= {_MAX_SAMPLES}"
    )


def _vote_counts(final, right):
  """One entry per problem and answer: problem, its votes, those right, the
  votes of the other answers (sorted, 0 for none); and per problem those
  without an answer."""
  owner, own, good, others = [], [], [], []
  for i, (ids, ok) in enumerate(zip(final, right)):
    valid = ids >= 0
    _, place, count = np.unique(
      ids[valid], return_inverse=True, return_counts=True
    )
    hits = np.bincount(place, weights=ok[valid], minlength=len(count))
    # An answer that is never right adds nothing, whether it wins or not.
    for j in np.flatnonzero(hits):
      owner.append(i)
      own.append(count[j])
      good.append(hits[j])
      others.append(np.sort(np.delete(count, j))[::-1])
  width = max((len(x) for x in others), default=0)
  rest = np.zeros((len(owner), width), int)
  for row, counts in zip(rest, others):
    row[: len(counts)] = counts
  missing = np.sum(final < 0, axis=1)
  return (
    np.array(owner, int), np.array(own, int), np.array(good, float), rest,
    missing,
  )  # fmt: skip


def _win_probability(own, others, missing, k, n):
  """P(this answer wins), [M]: sum over w of its votes, and over ties.

  C(own, w) * sum_t N(w, t) / (t + 1) / C(n, k), where N(w, t) counts the ways
  to fill the other k - w places so that t answers tie and none has more.
  """
  choose = np.array(
    [[float(math.comb(m, x)) for x in range(k + 1)] for m in range(n + 1)]
  )
  total = np.zeros(len(own))
  for w in range(1, k + 1):
    some = np.flatnonzero(own >= w)
    if not some.size:
      break
    ways = _count_ways(others[some], missing[some], w, k - w, choose)
    tied = ways / np.arange(1, ways.shape[1] + 1)
    total[some] += choose[own[some], w] * np.sum(tied, axis=1)
  return total / math.comb(n, k)


def _count_ways(others, missing, w, places, choose):
  """N(w, t) for t = 0..places // w, [M t]."""
  ways = np.zeros((len(others), places // w + 1, places + 1))
  ways[:, 0] = choose[missing, : places + 1]
  for count in others.T:
    if not count.any():
      break
    some = choose[count][:, :, None, None]
    after = np.zeros_like(ways)
    for x in range(min(w - 1, places) + 1):
      after[:, :, x:] += some[:, x] * ways[:, :, : places + 1 - x]
    if w <= places:
      after[:, 1:, w:] += some[:, w] * ways[:, :-1, : places + 1 - w]
    ways = after
  return ways[:, :, places]
