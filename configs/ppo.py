"""PPO with a critic: one sample a problem, and a value for every token.

sitrain train --config=ppo --workdir=/tmp/sitrain_ppo

One turn of the hinted maze. Seed 0: from 50 to 75 % right.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = common.TURNS[:1]


def get_config(argument: str = "") -> ConfigDict:
  """Base, then RL of policy and critic."""
  config = common.base_config()
  config.roles = ConfigDict({"critic": {"start": "policy", "head": "scalar"}})
  common.add_base_model(config)
  method = {
    "name": "ppo", "problems": 512, "samples": 1, "turns": TURNS,
    "beta": 0.05,
  }
  common.add(config, "rl", common.stage(
    method, {"learning_rate": 5e-4}, 120, "base/last", common.BASE,
    trained=("policy", "critic"), best="judge/reward_1", minibatches=2,
    microbatches=4,
  ))
  return common.finish(config, argument)
