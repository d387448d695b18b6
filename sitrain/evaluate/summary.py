"""From judged episodes to the summary of a stage."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sitrain.evaluate import correction as statistics
from sitrain.evaluate.bootstrap import bootstrap, estimate
from sitrain.evaluate.player import Judged


class Evidence(NamedTuple):
  """Of each problem: one episode, and independent first attempts."""

  right: Float[np.ndarray, "P K"]
  final: Int[np.ndarray, "P K"]
  truncated: Float[np.ndarray, "P K"]
  fresh: Float[np.ndarray, "P n"]  # whether independent attempts are right
  known: Float[np.ndarray, " P"]  # 0 where the verifier failed somewhere
  reward: Float[np.ndarray, "P K"]


def gather(
  judged: Judged, fresh: Judged, *, columns: Sequence[int]
) -> Evidence:
  """Evidence from played episodes; `columns` picks the attempts to compare.

  A problem counts only if all its attempts and all its fresh ones are judged.
  """
  columns, problems = list(columns), judged.right.shape[0]
  other = fresh.known.reshape(problems, -1)
  known = judged.known[:, columns].all(axis=1) & other.all(axis=1)
  return Evidence(
    judged.right[:, columns].astype(float),
    judged.final[:, columns],
    judged.truncated[:, columns].astype(float),
    fresh.right.reshape(problems, -1).astype(float),
    known.astype(float),
    judged.reward[:, columns].astype(float),
  )


def is_partial(reward: Float[np.ndarray, "..."]) -> bool:
  """Whether some rewards are neither 0 nor 1."""
  return not np.all((reward == 0) | (np.abs(reward - 1) < 1e-6))


def all_statistics(
  evidence: Evidence,
  weight: Float[np.ndarray, "D P"],
  *,
  turns: tuple[int, ...],
) -> dict[str, Float[np.ndarray, " D"]]:
  """All statistics; those of the resample control start with "resample/".

  cl_over_resample and cs_over_resample are CL and CS minus the control's.
  reward_k is there where some rewards are neither 0 nor 1: right, and so all
  shares, are then of full rewards alone.
  """
  weight = weight * evidence.known
  right, final = evidence.right, evidence.final
  row = statistics.correction(right, weight, turns=turns)
  row |= statistics.answers(final, right, weight, turns=turns)
  for number, cut in zip(turns, evidence.truncated.T):
    row[f"truncated_{number}"] = statistics.share(cut, weight)
  if is_partial(evidence.reward):
    for number, paid in zip(turns, evidence.reward.T):
      row[f"reward_{number}"] = statistics.share(paid, weight)
  control = statistics.resample(evidence.fresh, weight)
  control[f"accuracy_{turns[-1]}"] = control["accuracy"]
  row["cl_over_resample"] = row["cl"] - control["cl"]
  row["cs_over_resample"] = row["cs"] - control["cs"]
  return row | {f"resample/{k}": v for k, v in control.items()}


def summarize(
  rng: np.random.Generator,
  evidence: Evidence,
  *,
  turns: tuple[int, ...],
  draws: int = 1000,
) -> dict[str, object]:
  """All statistics with 95 % intervals over problems, ready for JSON.

  `resample` holds those of a second attempt that ignores the first.
  `corrects` and `confident`: CS and CL are above the resample's, where the
  interval of the paired difference lies above 0; a gain without them may be
  resampling alone. `turns` numbers the attempts compared.
  """
  problems = len(evidence.known)
  statistic = partial(all_statistics, evidence, turns=turns)
  numbers = estimate(statistic, problems)
  ends = bootstrap(rng, statistic, problems, draws=draws)
  row = {"problems": int(evidence.known.sum())}
  row |= _own(numbers)
  return row | {
    "unknown": problems - row["problems"],
    "corrects": ends["cs_over_resample"][0] > 0,
    "confident": ends["cl_over_resample"][0] > 0,
    "intervals": _own(ends),
    "resample": _control(numbers) | {"intervals": _control(ends)},
  }


def _own(numbers):
  return {k: v for k, v in numbers.items() if not k.startswith("resample/")}


def _control(numbers):
  start = "resample/"
  return {
    k.removeprefix(start): v for k, v in numbers.items() if k.startswith(start)
  }


def by_level(
  rng: np.random.Generator,
  evidence: Evidence,
  level: Int[np.ndarray, " P"],
  names: Sequence[str],
  *,
  turns: tuple[int, ...],
  draws: int = 1000,
) -> dict[str, dict[str, object]]:
  """`summarize` for each difficulty that occurs."""
  rows = {}
  for i, name in enumerate(names):
    selected = level == i
    if selected.any():
      part = Evidence(*(x[selected] for x in evidence))
      rows[name] = summarize(rng, part, turns=turns, draws=draws)
  return rows
