"""Whether attempts say something new: near copies, and likeness of samples.

All of it counts insertions and deletions (edits.edit_ratio) on texts or on
token ids, pair by pair.

Source: the alarm on the mean METEOR of pairs of completions of SuperHF
(Mukobi et al. 2023, arXiv:2310.16763), which rises where a policy collapses to
one answer. METEOR finds synonyms in WordNet, a data set of its own, and fits
neither formulas nor programs, so the likeness here is 1 - edit ratio.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sitrain.evaluate.edits import edit_ratio

NEAR = 0.1  # an edit ratio up to this is a near copy
PAIRS = 200  # pairs of a problem that are compared at the most


def likeness(samples: Sequence[Sequence[Any]], pairs: int = PAIRS) -> float:
  """Mean of 1 - edit ratio over pairs of samples: 1 where all are equal.

  Of more than `pairs` pairs those at equal steps are taken. NaN for fewer than
  two samples.
  """
  every = list(itertools.combinations(range(len(samples)), 2))
  step = -(-len(every) // pairs)
  ratios = [
    edit_ratio(samples[i], samples[j]) for i, j in every[:: max(step, 1)]
  ]
  return 1.0 - float(np.mean(ratios)) if ratios else float("nan")


def repeats(
  before: Sequence[Any], after: Sequence[Any], near: float = NEAR
) -> bool:
  """Whether an attempt is a near copy of the one before."""
  return edit_ratio(before, after) <= near


def repeated_mistakes(
  before: Iterable[Sequence[Any]],
  after: Iterable[Sequence[Any]],
  wrong: Iterable[bool],
  near: float = NEAR,
) -> float:
  """Wrong attempts that the next one repeats / wrong attempts.

  `wrong`: the attempt before was judged, and has not a full reward. Copies of
  right attempts are no fault, and do not count, nor does what has no attempt
  after it. NaN without wrong ones.
  """
  found = [
    repeats(old, new, near)
    for old, new, is_wrong in zip(before, after, wrong, strict=True)
    if is_wrong and len(new)
  ]
  return float(np.mean(found)) if found else float("nan")
