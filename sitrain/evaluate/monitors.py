"""Monitors of the samples of a test set, beside their accuracies.

Each is a mean over what defines it, and NaN where nothing does. `summarize`
explains their names; their formulas are in exploration.py, diversity.py,
behaviours.py and calibration.py.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from sitrain.evaluate import behaviours, calibration, diversity, exploration
from sitrain.evaluate.player import Judged

WANTED = 8  # n* of the balance score, in the code of the paper

Cell = dict[str, Any]  # one attempt at one problem: lists over the samples


def summarize(
  cells: Sequence[Cell], table: Judged, before: Sequence[Cell] = ()
) -> dict[str, Any]:
  """The monitors of one attempt, ready for JSON.

  `cells` have its texts and `table` its marks, [P n]; `before` are the cells of
  the attempt before it, if there is one. With n > 1 samples a problem:
  likeness, of texts that are not empty; balance (n* = 8, or n where that is
  less); pass@n-s and reward@n-s for s = 2, 4, 8, ... below n, where the score
  of a sample is the number of samples with its answer; calibration, where the
  confidence in an answer is its share of the votes. Of later attempts copied,
  and of all behaviours, counts a text.
  """
  texts = [list(cell["texts"]) for cell in cells]
  n, found = len(texts[0]) if texts else 0, {}
  if n > 1:
    likeness = [diversity.likeness([x for x in row if x]) for row in texts]
    same, every = exploration.number(texts), np.ones_like(table.known)
    given = table.right, table.known, same
    score = exploration.balance(*given, every, wanted=min(WANTED, n))
    found |= {"likeness": _mean(np.array(likeness)), "balance": _mean(score)}
    for least in (2**i for i in range(1, n.bit_length()) if 2**i < n):
      reached = exploration.pass_at_least(*given, n, least)
      found[f"pass@{n}-{least}"] = _mean(reached)
      first = exploration.reward_at(
        agreeing(table.final).astype(float), table.right, table.known, n, least
      )
      found[f"reward@{n}-{least}"] = _mean(first)
    found["calibration"] = calibration.summarize(*votes(table))
  if before:
    wrong = (table_of_right(before) == 0).reshape(-1).tolist()
    pairs = zip(before, cells, strict=True)
    both = [pair for a, b in pairs for pair in zip(a["texts"], b["texts"])]
    first, second = zip(*both) if both else ((), ())
    found["copied"] = diversity.repeated_mistakes(first, second, wrong)
  written = [text for row in texts for text in row if text]
  return found | {"behaviours": behaviours.means(written)}


def agreeing(final: Int[np.ndarray, "P n"]) -> Int[np.ndarray, "P n"]:
  """The number of samples that have the answer of each; 0 without one."""
  same = (final[:, :, None] == final[:, None]) & (final >= 0)[:, None]
  return np.where(final >= 0, same.sum(axis=2), 0)


def votes(table: Judged):
  """(confidence, right, known) [P]: of the most frequent answer of a problem.

  Its confidence is its share of all samples. Of equally frequent answers, and
  of attempts with one answer, the first counts. Not known where a sample is not
  judged, or where none has an answer.
  """
  count, n = agreeing(table.final), table.final.shape[1]
  first = np.argmax(count, axis=1)[:, None]
  most = np.take_along_axis(count, first, axis=1)[:, 0]
  right = np.take_along_axis(table.right, first, axis=1)[:, 0]
  known = (table.known.min(axis=1) > 0) & (most > 0)
  return most / n, right.astype(float), known.astype(float)


def table_of_right(cells: Sequence[Cell]) -> np.ndarray:
  """[P n]: 1 right, 0 wrong, -1 where the verifier failed."""
  return np.array([
    [r if k else -1 for r, k in zip(cell["right"], cell["known"])]
    for cell in cells
  ])


def _mean(values) -> float:
  known = values[~np.isnan(values)]
  return float(np.mean(known)) if known.size else float("nan")
