"""The named rewards of a task, beside whether answers are right."""

from typing import Any

import numpy as np

from sitrain.evaluate.player import Played
from sitrain.evaluate.verdicts import rows_of
from sitrain.judge.verifier import written
from sitrain.types import Problems, Task


def summarize(
  task: Task, problems: Problems, found: Played
) -> dict[str, float]:
  """NAME_k: the mean of reward NAME over turns k that were written.

  Turns at which it is not finite or not known are left out; NaN where none is
  left. `found` has one episode a problem. {} for a task without named rewards,
  and where the host verifies, which would have to judge all rows once more.
  """
  if not task.rewards or task.on_host:
    return {}
  rows, turns = rows_of(found), found.judged.right.shape[1]
  verdict = task.verify(np.asarray(problems.answer), rows, turns)
  known = (np.asarray(verdict.known) > 0) & written(rows, turns)
  row: dict[str, Any] = {}
  for name, part in verdict.parts.items():
    part = np.asarray(part)
    for k in range(turns):
      counted = known[:, k] & np.isfinite(part[:, k])
      values = part[counted, k]
      mean = float(np.mean(values)) if values.size else float("nan")
      row[f"{name}_{k + 1}"] = mean
  return row
