"""RL on the first attempt alone: the baseline without self-correction.

sitrain train --config=single_turn --workdir=/tmp/sitrain_st

The first attempt reaches its ceiling; the second, which is not trained, gets
worse.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then RL."""
  config = common.base_config()
  common.add_base_model(config)

  common.add(config, "rl", common.reinforce(
    "single_turn", beta1=0.05, baseline="leave_one_out"
  ))
  return common.finish(config, argument)
