"""Iterative DPO on pairs of own samples, a right one and a wrong one.

sitrain train --config=dpo --workdir=/tmp/sitrain_dpo

One turn of the hinted maze; a pair for each of 256 problems and 8 gradient
steps a round. Seed 0: from 50 to 71 % right.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = common.TURNS[:1]


def get_config(argument: str = "") -> ConfigDict:
  """Base, then rounds of DPO."""
  config = common.base_config()
  common.add_base_model(config)
  method = {
    "name": "dpo", "problems": 256, "samples": 8, "turns": TURNS, "beta": 0.1,
    "anchor": 0.2,
  }
  common.add(config, "dpo", common.stage(
    method, {"learning_rate": 5e-4}, 40, "base/last", common.BASE,
    steps_per_call=5, best="judge/reward_1", waves=4, minibatches=8,
    microbatches=2,
  ))
  return common.finish(config, argument)
