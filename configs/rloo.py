"""RLOO: samples of a problem against the mean of the others.

sitrain train --config=rloo --workdir=/tmp/sitrain_rloo

One turn of the hinted maze, with the KL in the reward.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then RLOO."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_policy_gradient(config, "rloo", beta=0.03)
  return common.finish(config, argument)
