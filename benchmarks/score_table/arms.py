"""The arms: their stages, where they start, and their settings.

All take grid.STEPS gradient steps on equal numbers of episodes, with stage I.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.score_table import grid
from sitrain.configs import common

ROWS = grid.PROBLEMS * grid.SAMPLES


class Piece(NamedTuple):
  """One run."""

  task: str
  arm: str
  setting: str  # a letter of the grid; "a" where there is no choice
  seed: int


class Arm(NamedTuple):
  """A row of the table."""

  description: str  # for the page
  start: str  # the arm whose last parameters it starts from; "": random
  grid: dict[str, dict]  # its settings by letter
  stage: Callable[..., Any]  # (setting, steps, start, base) -> config.stage.arm
  chosen: str  # the arm whose tuned setting it takes, itself or another
  seeds: int  # number of reported seeds


def _reinforce(name: str, **options) -> Callable:
  """RL from the base; the setting gives the KL weight of every turn."""

  def stage(setting, steps, start, base):
    given = {
      "name": name, "problems": grid.PROBLEMS, "samples": grid.SAMPLES,
      "baseline": "same_outcome", "beta1": setting["beta"],
      "share_prompts": True,
    }
    if name != "single_turn":
      given["beta2"] = setting["beta"]
    best = "judge/reward_1" if name == "single_turn" else "judge/reward_2"
    return common.stage(
      given | options, {"learning_rate": setting["rate"]}, steps, start,
      {"reference": base}, best=best, **common.PARTS,
    )

  return stage


def _stage_one(setting, steps, start, base):
  """Ends when its second attempt has converged."""
  stage = _reinforce("score.stage_one", beta2=1.0)(setting, steps, start, base)
  stage.until = common.CONVERGED
  return stage


def _stage_two(**options) -> Callable:
  """The bonus is the quickstart's."""
  return _reinforce("score.stage_two", **{"bonus": 2.0} | options)


def _imitate(name: str, rounds: int, **options) -> Callable:
  """Rounds of sampling and imitation: a step for as many episodes."""

  def stage(setting, steps, start, base):
    each = steps // rounds
    given = {
      "name": name, "problems": each * grid.PROBLEMS, "samples": grid.SAMPLES
    }
    # STaR restarts from its reference, where it started, before each round.
    origin = start if name == "star" else base
    return common.stage(
      given | options, {"learning_rate": setting["rate"]}, rounds, start,
      {"reference": origin}, steps_per_call=1, waves=each, minibatches=each,
      **common.PARTS,
    )

  return stage


def _arm(
  description, stage, *, start="base", grid=grid.SETTINGS, chosen,
  seeds=grid.FEWER,
):
  return Arm(description, start, grid, stage, chosen, seeds)


def _main(name, description, stage, start="base"):
  return _arm(description, stage, start=start, chosen=name, seeds=grid.MANY)


def _variant(description, stage, start="stage1"):
  return _arm(description, stage, start=start, chosen="score")


def _sft(name, description, stage):
  return _arm(description, stage, grid=grid.RATES, chosen=name)


ARMS = {
  "base": Arm(
    "imitation of the corpus", "", {"a": {}}, None, "base", grid.MANY
  ),
  "star": _sft("star", "STaR, wrong to right traces", _imitate("star", 3)),
  "star_plus": _sft(
    "star_plus", "STaR, and right to right",
    _imitate("star", 3, also_correct=True),
  ),
  "pair_sft": _sft(
    "pair_sft", "Pair-SFT, wrong with right", _imitate("pair_sft", 1)
  ),
  "pair_sft_plus": _sft(
    "pair_sft_plus", "Pair-SFT, and right with right",
    _imitate("pair_sft", 1, also_correct=True),
  ),
  "single_turn": _main(
    "single_turn", "RL on turn 1 alone", _reinforce("single_turn")
  ),
  "multi_turn": _main(
    "multi_turn", "RL on both turns", _reinforce("multi_turn")
  ),
  "multi_turn_anchored": _main(
    "multi_turn_anchored", "the same, with stage I's KL on turn 1",
    _reinforce("multi_turn", beta2=1.0),
  ),
  "stage1": _arm(
    "SCoRe after stage I", _stage_one, chosen="score", seeds=grid.MANY
  ),
  "score": _main("score", "SCoRe", _stage_two(), start="stage1"),
  "without_stage1": _main(
    "without_stage1", "stage II from the base", _stage_two()
  ),
  "without_bonus": _main(
    "without_bonus", "stage II with no bonus", _stage_two(bonus=0.0),
    start="stage1",
  ),
  "bonus_10": _variant("bonus 10, the paper's", _stage_two(bonus=10.0)),
  "plain_baseline": _variant(
    "bonus, baseline over all samples of the problem",
    _stage_two(baseline="leave_one_out"),
  ),
  "weight": _variant(
    "turn 2 weighs 1 + 2 instead, the same baseline",
    _stage_two(baseline="leave_one_out", shaping="weight"),
  ),
  "trajectory": _variant(
    "turn 1 also paid for turn 2 (discount 1)", _stage_two(discount=1.0)
  ),
  "offline": _variant(
    "half of the first attempts the base's",
    _stage_two(samples=4, offline=4),
  ),
  "offline_only": _variant(
    "all first attempts the base's", _stage_two(samples=0, offline=8)
  ),
  "star_stage2": _variant(
    "STaR as stage II", _imitate("star", 2)
  ),
}
MAIN = tuple(
  name for name, arm in ARMS.items()
  if arm.start and arm.chosen == name and arm.seeds == grid.MANY
)


def seeds_of(arm: str) -> tuple[int, ...]:
  """The reported seeds of an arm."""
  return grid.SEEDS[: ARMS[arm].seeds]


def before(piece: Piece) -> Piece:
  """The piece whose parameters this one starts from; the base has none."""
  start = ARMS[piece.arm].start
  setting = piece.setting if ARMS[start].grid == ARMS[piece.arm].grid else "a"
  return piece._replace(arm=start, setting=setting)


def tuning(task: str) -> list[Piece]:
  """The runs by which settings are chosen."""
  return [
    Piece(task, name, setting, seed)
    for seed in grid.TUNING
    for name, arm in ARMS.items()
    if arm.chosen == name or name == "stage1"
    for setting in arm.grid
  ]


def reported(task: str, chosen: dict[str, str]) -> list[Piece]:
  """The pieces of the table, with the chosen setting of each arm.

  Seed by seed, so that the parameters of a seed are needed in one stretch.
  """
  return [
    Piece(task, name, chosen[arm.chosen], seed)
    for seed in grid.SEEDS
    for name, arm in ARMS.items()
    if arm.chosen in chosen and seed in seeds_of(name)
  ]
