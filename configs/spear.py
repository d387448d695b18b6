"""SPEAR's self-imitation: replay of rows with an advantage above 0.

sitrain train --config=spear --workdir=/tmp/sitrain_spear

One turn of the hinted maze. Seed 0: from 49 to 67 % right.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = common.TURNS[:1]


def get_config(argument: str = "") -> ConfigDict:
  """Base, then RL with a buffer of good rows."""
  config = common.base_config()
  common.add_base_model(config)
  method = {
    "name": "spear", "problems": 32, "samples": 8, "turns": TURNS,
    "capacity": 256, "warmup": 60,
  }
  common.add(config, "spear", common.stage(
    method, {"learning_rate": 5e-4}, 120, "base/last", {},
    best="judge/reward_1", **common.PARTS,
  ))
  return common.finish(config, argument)
