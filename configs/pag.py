"""PAG on chained arithmetic: attempts, and verdicts of the policy on them.

sitrain train --config=pag --workdir=/tmp/sitrain_pag

Seed 0: the last attempt of 49 % of the problems is right before, and of 79 %
after (78 % by direct multi-turn RL on the same turns), nearly all of it by a
better first attempt: 46 and 78 %. No verifier is learned: of wrong attempts 53
% are caught before and 9 % after (2 % by direct RL), since most are right by
then, and a verdict has to name the wrong step to be paid.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = (4, 4, 4)  # an attempt, a verdict on it, another attempt


def get_config(argument: str = "") -> ConfigDict:
  """Imitation of attempts and true verdicts on them, then PAG."""
  config = common.base_config()
  add_judged_base(config)
  common.add_policy_gradient(
    config, "pag", held={}, turns=TURNS, baseline="same_outcome"
  )
  config.stage.pag.best = "judge/reward_3"
  return common.finish(config, argument)


def add_judged_base(config: ConfigDict) -> None:
  """A base that can add and judge about half of the time."""
  config.task = ConfigDict({
    "name": "chain.critic", "operations": (2, 3), "modulus": 5,
    "mistake": 0.25,
  })
  config.evaluate.turns = TURNS
  common.add_base_model(config)
  config.stage.base.steps, config.stage.base.method.turns = 600, TURNS
