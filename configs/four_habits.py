"""Four Habits: what a start model does, not what it knows, decides about RL.

sitrain train --config=four_habits --workdir=/tmp/sitrain_four_habits
sitrain train --config=four_habits:dots --workdir=/tmp/sitrain_dots

Gandhi et al. 2025 (arXiv:2503.01307) in the small: a base that writes random
lines of Countdown is primed with traces of chosen habits, or with a control,
and GRPO follows. The argument is one of ARMS; `python -m benchmarks.habits`
runs all of them. Priming has as many trained tokens in each arm.

Percent right on unseen boards, three seeds: all habits 15 -> 30, answers alone
34 -> 38, dots 22 -> 35, not primed 10 -> 28: the claim is not seen here.

The traces are a solver's, not a language model's; behaviours are counted by
their tokens, not by a language model; and GRPO is in the place of PPO.
"""

from ml_collections import ConfigDict

from sitrain.configs import backtracking, common
from sitrain.configs.backtracking import ALONE, TURN

ALL = "backtracking,verification,subgoals,backward"
ARMS = {
  "all": {"habits": ALL},
  "backtracking": {"habits": "backtracking"},
  "backtracking_verification": {"habits": "backtracking,verification"},
  "backtracking_subgoals": {"habits": "backtracking,subgoals"},
  "backtracking_backward": {"habits": "backtracking,backward"},
  "no_positive": {"habits": ALL, "right": 0.0},
  "dots": {"habits": ALL, "dots": True},
  "empty": {"habits": ""},
  "none": {"habits": ALL},  # no priming
}
BASE = {"habits": "", "order": "random", "right": 0.1}
STEPS, TOKENS = 400, 1000  # of priming, and trained in each of its steps
TOKENS_OF_A_ROW = {  # in the mean over each corpus
  "all": 29.9, "backtracking": 30.7, "backtracking_verification": 32.9,
  "backtracking_subgoals": 32.7, "backtracking_backward": 26.4,
  "no_positive": 33.5, "dots": 29.9, "empty": 11.0,
}


def get_config(argument: str = "") -> ConfigDict:
  """Base, priming, GRPO.

  argument: one of ARMS, and after a comma what `common.finish` takes.
  """
  arm, rest = common.kind_of(argument, ARMS, "all")
  config = backtracking.base_config()
  config.task.update(ARMS[arm])
  backtracking.imitate(config, "base", BASE, ALONE, problems=128, steps=800)
  start = "base"
  if arm != "none":
    start = "prime"
    backtracking.imitate(
      config, "prime", {}, ALONE if arm == "empty" else TURN,
      round(TOKENS / TOKENS_OF_A_ROW[arm]), STEPS, "base/last", rate=1e-3,
    )
  backtracking.reinforce(config, "rl", {}, TURN, start)
  return backtracking.finish(config, rest)
