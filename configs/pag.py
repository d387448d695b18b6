"""PAG on chained arithmetic: attempts, and verdicts of the policy on them.

sitrain train --config=pag --workdir=/tmp/sitrain_pag
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = (4, 4, 4, 4)  # an attempt, a verdict, an attempt, a verdict


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
