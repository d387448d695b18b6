"""PAG on chained arithmetic: attempts, and verdicts of the policy on them.

sitrain train --config=pag --workdir=/tmp/sitrain_pag
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TASK = {
  "name": "chain.critic", "operations": (2, 3), "modulus": 5, "mistake": 0.25
}
TURNS = (4, 4, 4, 4)  # an attempt, a verdict, an attempt, a verdict


def get_config(argument: str = "") -> ConfigDict:
  """Imitation of true verdicts, then PAG."""
  config = common.base_config()
  config.task = ConfigDict(TASK)
  config.evaluate.turns = TURNS
  common.add_base_model(config)
  common.add_policy_gradient(config, "pag", baseline="same_outcome")
  for name in config.stages:
    config.stage[name].method.turns = TURNS
  config.stage.pag.best = "judge/reward_3"
  return common.finish(config, argument)
