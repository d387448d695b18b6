"""How well later attempts correct the first, and the control by resampling.

Every statistic takes `weight [D P]`, how often each problem counts: ones for
the estimate itself, counts of each draw for the bootstrap. It returns numbers
[D] by name. Weight 0 excludes a problem.
"""

import numpy as np
from jaxtyping import Float, Int

Row = dict[str, np.ndarray]  # name -> [D]


def ratio(
  numerator: Float[np.ndarray, " D"], denominator: Float[np.ndarray, " D"]
) -> Float[np.ndarray, " D"]:
  """numerator / denominator, NaN where the denominator is 0."""
  safe = np.where(denominator > 0, denominator, 1.0)
  return np.where(denominator > 0, numerator / safe, np.nan)


def share(
  values: Float[np.ndarray, " P"], weight: Float[np.ndarray, "D P"]
) -> Float[np.ndarray, " D"]:
  """Mean of `values` over the problems, each counted `weight` times."""
  return ratio(weight @ values, np.sum(weight, axis=1))


def rss(
  first: Float[np.ndarray, " D"], last: Float[np.ndarray, " D"]
) -> Float[np.ndarray, " D"]:
  """Relative self-correction score: 0.5 where accuracy does not change.

  (a_K - a_1^2) / (2 a_1 (1 - a_1)), which places a_K between its bounds under
  CS <= a_1 <= CL; NaN where a_1 is 0 or 1 (arXiv:2412.19513).
  """
  return ratio(last - first**2, 2.0 * first * (1.0 - first))


def correction(
  right: Float[np.ndarray, "P K"],
  weight: Float[np.ndarray, "D P"],
  *,
  turns: tuple[int, ...],
) -> Row:
  """Changes between the first and the last attempt.

  `right` is 1 or 0; `turns` numbers its columns. Shares of all problems:
  accuracy_k, gain = a_K - a_1 = incorrect_to_correct - correct_to_incorrect
  (Kumar et al. 2024, section 3), and with more than two attempts gain_k
  against the one before. Conditional: fix_rate, of the answers wrong at first,
  how many are right at last, which is also the critique score CS =
  P(right_K | wrong_1), and the confidence level CL = P(right_K | right_1), so
  that a_K = a_1 CL + (1 - a_1) CS (arXiv:2412.19513).
  """
  first, last = right[:, 0], right[:, -1]
  row = {f"accuracy_{n}": share(r, weight) for n, r in zip(turns, right.T)}
  row["gain"] = share(last - first, weight)
  if len(turns) > 2:
    steps = zip(turns[1:], np.diff(right, axis=1).T)
    row |= {f"gain_{n}": share(step, weight) for n, step in steps}
  fixed = share((1.0 - first) * last, weight)
  spoiled = share(first * (1.0 - last), weight)
  start, end = row[f"accuracy_{turns[0]}"], row[f"accuracy_{turns[-1]}"]
  rate = ratio(fixed, 1.0 - start)
  return row | {
    "incorrect_to_correct": fixed,
    "correct_to_incorrect": spoiled,
    "fix_rate": rate,
    "cl": ratio(share(first * last, weight), start),
    "cs": rate,
    "rss": rss(start, end),
  }


def answers(
  final: Int[np.ndarray, "P K"],
  right: Float[np.ndarray, "P K"],
  weight: Float[np.ndarray, "D P"],
  *,
  turns: tuple[int, ...],
) -> Row:
  """How often the final answer changes or is missing.

  `final` is the id of an answer, -1 where there is none. `changed` compares
  the last attempt with the first, changed_k (more than two attempts) attempt k
  with the one before. `format_repaired` is the part of incorrect_to_correct in
  which the first attempt had no answer at all.
  """
  missing = (final < 0).astype(float)
  row = {"changed": share((final[:, -1] != final[:, 0]) * 1.0, weight)}
  if len(turns) > 2:
    steps = zip(turns[1:], (np.diff(final, axis=1) != 0).T)
    row |= {f"changed_{n}": share(step * 1.0, weight) for n, step in steps}
  row |= {f"malformed_{n}": share(m, weight) for n, m in zip(turns, missing.T)}
  repaired = missing[:, 0] * (1.0 - right[:, 0]) * right[:, -1]
  return row | {"format_repaired": share(repaired, weight)}


def resample(
  fresh: Float[np.ndarray, "P n"], weight: Float[np.ndarray, "D P"]
) -> Row:
  """The statistics of a second attempt that ignores the first.

  `fresh` holds n >= 2 independent first attempts a problem, c of them right.
  With p the accuracy on a problem: CL = E[p^2] / E[p], CS = E[p (1 - p)] /
  E[1 - p], and both incorrect_to_correct and correct_to_incorrect are
  E[p (1 - p)]. Without bias E[p^2] = mean c (c - 1) / (n (n - 1)) and
  E[p (1 - p)] = mean c (n - c) / (n (n - 1)). Problems differ in difficulty,
  so CL > a > CS without any correction: compare CL and CS with these values,
  not with the accuracy a. Raises ValueError for n < 2.
  """
  n = fresh.shape[1]
  if n < 2:
    raise ValueError(f"{n} samples a problem: the control needs 2 or more")
  count = np.sum(fresh, axis=1)
  accuracy = share(count / n, weight)
  both = share(count * (count - 1) / (n * (n - 1)), weight)
  one = share(count * (n - count) / (n * (n - 1)), weight)
  return {
    "accuracy": accuracy,
    "cl": ratio(both, accuracy),
    "cs": ratio(one, 1.0 - accuracy),
    "incorrect_to_correct": one,
    "correct_to_incorrect": one,
  }


def changes(
  first: Float[np.ndarray, "P n"],
  later: Float[np.ndarray, "P n"],
  weight: Float[np.ndarray, "D P"],
) -> Row:
  """The changes from the first attempt to a later one, of n samples a problem.

  Names as in `correction`. With two samples or more also CL and CS less those
  of `resample`, whose second attempts are the first ones of the other samples.
  """
  part = lambda x: share(np.mean(x, axis=1), weight)
  start, kept = part(first), part(first * later)
  fixed, spoiled = part((1.0 - first) * later), part(first * (1.0 - later))
  row = {
    "gain": fixed - spoiled, "incorrect_to_correct": fixed,
    "correct_to_incorrect": spoiled,
  }
  scores = {"cl": ratio(kept, start), "cs": ratio(fixed, 1.0 - start)}
  if first.shape[1] < 2:
    return row | scores
  control = resample(first, weight)
  return row | scores | {
    f"{name}_over_resample": x - control[name] for name, x in scores.items()
  }


def by_turn(
  right: Float[np.ndarray, "P K"], weight: Float[np.ndarray, "D P"]
) -> Row:
  """Accuracy of every turn, and its changes against turn 1.

  accuracy_k; incorrect_to_correct_k and correct_to_incorrect_k between turn 1
  and turn k, so that accuracy_k = accuracy_1 + their difference; and ever_k,
  the share of problems that some attempt up to k has solved.
  """
  first = right[:, 0]
  ever = np.maximum.accumulate(right, axis=1)
  row = {}
  for k, now in enumerate(right.T, start=1):
    row |= {
      f"accuracy_{k}": share(now, weight),
      f"incorrect_to_correct_{k}": share((1.0 - first) * now, weight),
      f"correct_to_incorrect_{k}": share(first * (1.0 - now), weight),
      f"ever_{k}": share(ever[:, k - 1], weight),
    }
  return row
