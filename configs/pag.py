"""PAG on chained arithmetic: attempts, and verdicts of the policy on them.

sitrain train --config=pag --workdir=/tmp/sitrain_pag

Three seeds: of the problems 53, 57 and 50 % have a right last attempt before,
and 92, 97 and 97 % after; first attempts 43, 51 and 51, and 72, 97 and 97 %. In
seed 0 78 % of wrong attempts are caught (58 before), in the others 0 and 3.
Direct multi-turn RL on the same turns and with the same pay (multi_turn,
named=False) ends at 90, 97 and 99 % and catches 77, 0 and 8: PAG is not better
than that here.
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
