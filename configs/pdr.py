"""PDR's operator RL on Countdown: half standard rows, half refinements.

sitrain train --config=pdr --workdir=/tmp/sitrain_pdr

The policy judges its own attempts, and a draft that it accepts is refined.
Three seeds: an attempt goes from 18 to 38 % right, and PDR with eight drafts
from 20 to 42 (CISPO on dialogues alone: 33, with attempts of 44): little more
than an attempt, though in 68 % of the problems one of the attempts is right.
"""

from ml_collections import ConfigDict

from sitrain.configs import common, countdown

LENGTH = countdown.TURNS[0]
DIALOGUE = (LENGTH,) * 3  # an attempt, a verdict, and another attempt


def get_config(argument: str = "") -> ConfigDict:
  """Imitation of attempts and true verdicts on them, then both halves."""
  config = common.base_config()
  config.task = ConfigDict(countdown.TASK | {"name": "countdown.critic"})
  config.evaluate.turns = DIALOGUE
  common.add_base_model(config)
  config.stage.base.steps = countdown.BASE_STEPS
  config.stage.base.method.turns = DIALOGUE
  add_rl(config, "pdr", problems=32, drafts=8, keep=1, distil="verdict")
  return common.finish(config, argument)


def add_rl(
  config: ConfigDict, name: str, *, problems: int, method: str = "pdr",
  **options
) -> None:
  """A stage of CISPO on dialogues of two attempts, with PDR's or without."""
  common.add_policy_gradient(
    config, method, held={}, share_prompts=False, turns=DIALOGUE,
    problems=problems, anchor=0.1, **options
  )
  stage = config.stage[method]
  best = "judge/refined" if method == "pdr" else "judge/reward_1"
  stage.update({"best": best, "microbatches": 1})
  if name != method:
    del config.stage[method]
    config.stages = (*config.stages[:-1], name)
    config.stage[name] = stage
