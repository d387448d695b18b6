"""How true the verdicts of a policy on its own attempts are."""

from typing import Any

import numpy as np
from jaxtyping import Bool

from sitrain.evaluate.player import Played
from sitrain.judge.roles import roles
from sitrain.judge.verifier import written
from sitrain.types import ROOT, Episodes, Task


def rows_of(found: Played) -> Episodes:
  """Played episodes as rows that may be read, one a problem."""
  none = np.zeros(found.turn.shape, np.int32)
  number = np.arange(len(none), dtype=np.int32)
  return Episodes(
    found.tokens, found.turn, none.astype(np.float32), none, number,
    np.full_like(number, ROOT),
  )


def summarize(task: Task, found: Played) -> dict[str, Any]:
  """Shares over all verdicts that were written on attempts that are judged.

  verdict_accuracy: verdicts that say rightly whether the attempt is right;
  verdict_recall: of wrong attempts, those that are not accepted;
  verdict_precision: of attempts that are not accepted, those that are wrong;
  verdict_cleared: of right attempts, those that are accepted; verdict_named: of
  wrong ones, those of which it says all that the task asks for, such as
  `<bad@2>`, at which the others do not look; verdicts: how many there are. With
  `by_verdict`, a list of the same for each verdict turn. {} where the policy
  gives no verdicts.
  """
  turns = found.judged.right.shape[1]
  if roles(task) == 1 or turns < 2:
    return {}
  rows = rows_of(found)
  said = np.asarray(task.accepts(rows, turns)) > 0
  there, judged = written(rows, turns), found.judged
  columns = range(1, turns, 2)
  parts = [
    (said[:, k], judged.right[:, k] > 0, judged.right[:, k - 1] > 0,
     there[:, k] & (judged.known[:, k - 1] > 0))
    for k in columns
  ]
  each = [_shares(*part) for part in parts]
  return _shares(*map(np.concatenate, zip(*parts))) | {"by_verdict": each}


def agreement(
  said: Bool[np.ndarray, " N"], right: Bool[np.ndarray, " N"]
) -> dict[str, float]:
  """Whether attempts are accepted, against whether they are right.

  verdict_accuracy, verdict_recall and verdict_cleared, as in `summarize`; NaN
  where there is nothing to take a share of.
  """
  return {
    "verdict_accuracy": _share(said == right),
    "verdict_recall": _share(~said[~right]),
    "verdict_cleared": _share(said[right]),
  }


def _share(chosen) -> float:
  return float(np.mean(chosen)) if len(chosen) else float("nan")


def _shares(said, named, right, counted) -> dict[str, float]:
  """Of boolean arrays [N], of which those that are `counted`."""
  said, named, right = (x[counted] for x in (said, named, right))
  return agreement(said, right) | {
    "verdict_precision": _share(~right[~said]),
    "verdict_named": _share(named[~right]), "verdicts": len(said),
  }
