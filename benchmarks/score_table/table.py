"""From results to numbers: chosen settings, means over seeds, claims."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.intervals import interval
from benchmarks.score_table import grid, pieces
from benchmarks.score_table.arms import ARMS, Piece, seeds_of

NUMBERS = (
  "accuracy_1", "accuracy_2", "gain", "incorrect_to_correct",
  "correct_to_incorrect", "cs", "over_resample", "changed",
)


def chosen(task: str, tuned: Sequence[Piece]) -> dict[str, str]:
  """The setting of each arm with its own settings, by its tuning runs.

  The first of equal ones.
  """
  letters = {"base": "a"}
  for arm in dict.fromkeys(p.arm for p in tuned):
    if ARMS[arm].chosen == arm:
      scores = {name: _tuned(task, arm, name) for name in ARMS[arm].grid}
      letters[arm] = max(scores, key=scores.get)
  return letters


def _tuned(task: str, arm: str, setting: str) -> float:
  """The mean score of a setting; -inf where one of its runs failed."""
  by = grid.CHOSEN_BY.get(arm, "accuracy_2")
  runs = [pieces.read(Piece(task, arm, setting, s)) for s in grid.TUNING]
  if any("failed" in result for result in runs):
    return -math.inf
  mean = float(np.mean([result["row"][by] for result in runs]))
  return -math.inf if math.isnan(mean) else mean


def results(task: str, letters: dict[str, str]) -> dict[str, list[dict]]:
  """The existing reported results by arm, in the order of seeds.

  Failed runs have none; `failures` counts them.
  """
  found = {}
  for name, arm in ARMS.items():
    letter = letters.get(arm.chosen, "")
    each = [pieces.read(Piece(task, name, letter, s)) for s in seeds_of(name)]
    found[name] = [result for result in each if "row" in result]
  return {name: each for name, each in found.items() if each}


def failures(task: str, arm: str, letters: dict[str, str]) -> int:
  """The number of reported runs of an arm that ended with an error."""
  letter = letters[ARMS[arm].chosen]
  return sum(
    "failed" in pieces.read(Piece(task, arm, letter, seed))
    for seed in seeds_of(arm)
  )


def number_of(result: dict, name: str) -> float:
  """A number of a result's row.

  over_resample: the share of wrong first attempts that the second corrects (CS)
  minus the share that an independent second attempt corrects.
  """
  row = result["row"]
  if name == "over_resample":
    return row["cs"] - row["resample"]["cs"]
  return row[name]


def row_of(each: Sequence[dict]) -> dict:
  """Means over seeds with intervals, and the width at 300 problems."""
  rows = [result["row"] for result in each]
  numbers = {n: interval([number_of(r, n) for r in each]) for n in NUMBERS}
  half = [_half_width(row) for row in rows]
  fewer = [h * math.sqrt(row["problems"] / 300) for h, row in zip(half, rows)]
  return numbers | {
    "seeds": len(rows), "half_width": float(np.mean(half)),
    "half_width_300": float(np.mean(fewer)),
  }


def _half_width(row: dict) -> float:
  """Of the paired bootstrap's 95 % interval of the gain."""
  low, high = row["intervals"]["gain"]
  return (high - low) / 2


def difference(
  found: dict[str, list[dict]], one: str, other: str, number: str
) -> tuple[float, float, float, int]:
  """(mean, low, high, seeds) of one arm less another, seed by seed."""
  by_seed = [
    {r["seed"]: number_of(r, number) for r in found.get(name, [])}
    for name in (one, other)
  ]
  seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
  if not seeds:
    return math.nan, math.nan, math.nan, 0
  gaps = [by_seed[0][seed] - by_seed[1][seed] for seed in seeds]
  return *interval(gaps), len(seeds)


class Claim(NamedTuple):
  """A claim of Kumar et al. 2024, as a number or a difference."""

  description: str
  paper: str  # their figures, in points, on MATH with Gemini 1.5 Flash
  number: str
  arm: str
  other: str  # the arm that is subtracted; "": none


CLAIMS = (
  Claim("a base model's second attempt is worse", "-11.2", "gain", "base", ""),
  Claim("STaR does not gain", "-14.2", "gain", "star", ""),
  Claim("nor with right-to-right traces", "0.4", "gain", "star_plus", ""),
  Claim("Pair-SFT gains little", "1.8", "gain", "pair_sft", ""),
  Claim("with right pairs it copies", "0.0", "gain", "pair_sft_plus", ""),
  Claim("RL on both turns does not gain", "", "gain", "multi_turn", ""),
  Claim("and changes fewer answers", "", "changed", "multi_turn", "base"),
  Claim("SCoRe gains", "4.4", "gain", "score", ""),
  Claim("(control) and corrects more than an independent attempt", "",
        "over_resample", "score", ""),
  Claim("SCoRe's turn 2 beats single-turn RL's", "5.0", "accuracy_2", "score",
        "single_turn"),
  Claim("its turn 1 is about as good", "-1.8", "accuracy_1", "score",
        "single_turn"),
  Claim("it beats RL on both turns", "", "accuracy_2", "score", "multi_turn"),
  Claim("(not in the paper) the same with the anchor", "", "accuracy_2",
        "score", "multi_turn_anchored"),
  Claim("stage I helps", "3.0", "accuracy_2", "score", "without_stage1"),
  Claim("(control) without the bonus, over RL on both turns", "",
        "accuracy_2", "without_bonus", "multi_turn"),
  Claim("the bonus helps", "1.8", "accuracy_2", "score", "without_bonus"),
  Claim("REINFORCE beats STaR in stage II", "6.0", "accuracy_2", "score",
        "star_stage2"),
  Claim("first attempts must be its own", "3.8", "accuracy_2", "score",
        "offline_only"),
  Claim("(score.py) crediting turn 1 with turn 2 spoils turn 1", "",
        "accuracy_1", "score", "trajectory"),
  Claim("(score.py) bonus and weight are equal", "", "accuracy_2",
        "plain_baseline", "weight"),
)


def estimate_claim(
  found: dict[str, list[dict]], claim: Claim
) -> tuple[float, float, float, int]:
  """(mean, low, high, seeds) of a claim's number."""
  if claim.other:
    return difference(found, claim.arm, claim.other, claim.number)
  rows = [number_of(r, claim.number) for r in found.get(claim.arm, [])]
  if not rows:
    return math.nan, math.nan, math.nan, 0
  return *interval(rows), len(rows)


def sign(low: float, high: float) -> str:
  """Whether an interval lies above 0, below it, or around it."""
  if low > 0:
    return "above 0"
  return "below 0" if high < 0 else "not significant"
