"""REINFORCE++: no groups and no critic, one sample a problem.

sitrain train --config=reinforce_pp --workdir=/tmp/rpp

One turn of the hinted maze. Seed 0: from 50 to 75 % right, the ceiling of a
first attempt.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = common.TURNS[:1]


def get_config(argument: str = "") -> ConfigDict:
  """Base, then RL."""
  config = common.base_config()
  common.add_base_model(config)
  method = {
    "name": "reinforce_pp", "problems": 512, "samples": 1, "turns": TURNS,
    "beta": 0.05,
  }
  common.add(config, "rl", common.stage(
    method, {"learning_rate": 5e-4}, 120, "base/last", common.BASE,
    best="judge/reward_1", minibatches=2, microbatches=4,
  ))
  return common.finish(config, argument)
