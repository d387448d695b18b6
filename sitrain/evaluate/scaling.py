"""Accuracy at a budget: many first attempts, or attempts and corrections."""

from functools import partial

import numpy as np
from jaxtyping import Float, Int

from sitrain.evaluate.bootstrap import bootstrap, estimate
from sitrain.evaluate.correction import share
from sitrain.evaluate.votes import majority_at, pass_at, vote_of_episodes

ARMS = ("parallel", "sequential", "sequential_all", "pass")


def check_budgets(budgets: tuple[int, ...]) -> None:
  """Raises ValueError unless all budgets are even and positive."""
  bad = [b for b in budgets if b < 2 or b % 2]
  if bad or not budgets:
    raise ValueError(
      f"budgets={budgets}: give even numbers of attempts, as half of them are "
      "corrections"
    )


def arms_at(
  rng: np.random.Generator,
  final: Int[np.ndarray, "P n 2"],
  right: Float[np.ndarray, "P n 2"],
  budget: int,
) -> dict[str, Float[np.ndarray, " P"]]:
  """Expected accuracy of every arm on each problem at a budget of attempts.

  parallel: majority of `budget` first attempts. sequential: budget / 2 times
  attempt and correction, majority of the corrections. sequential_all: the
  same, with all attempts voting. pass: whether any of the first attempts is
  right, the ceiling of `parallel`.
  """
  half = budget // 2
  firsts = final[:, :, 0], right[:, :, 0]
  seconds = final[:, :, 1], right[:, :, 1]
  return {
    "parallel": majority_at(*firsts, budget),
    "sequential": majority_at(*seconds, half),
    "sequential_all": vote_of_episodes(rng, final, right, half),
    "pass": pass_at(firsts[1], budget),
  }


def _means(values, weight):
  row = {name: share(x, weight) for name, x in values.items()}
  row["difference"] = row["sequential"] - row["parallel"]
  return row


def inference_scaling(
  rng: np.random.Generator,
  final: Int[np.ndarray, "P n 2"],
  right: Float[np.ndarray, "P n 2"],
  *,
  budgets: tuple[int, ...],
  draws: int = 1000,
) -> dict[str, object]:
  """Accuracy of every arm by budget, at equal numbers of attempts.

  `final` and `right` are n independent episodes of two attempts a problem, n
  at least the largest budget. Returns lists over the budgets for the arms of
  `arms_at`, for `difference` = sequential - parallel, and under `intervals`
  the same names with [low, high] over problems (Kumar et al. 2024, fig. 1,
  right). Raises ValueError for odd budgets, or for more than n attempts.
  """
  check_budgets(budgets)
  found = {"budget": list(budgets)} | {a: [] for a in (*ARMS, "difference")}
  found["intervals"] = {a: [] for a in (*ARMS, "difference")}
  for budget in budgets:
    statistic = partial(_means, arms_at(rng, final, right, budget))
    for name, value in estimate(statistic, len(right)).items():
      found[name].append(value)
    ends = bootstrap(rng, statistic, len(right), draws=draws)
    for name, value in ends.items():
      found["intervals"][name].append(value)
  return found
