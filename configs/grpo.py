"""GRPO: samples of a problem against each other, in units of their deviation.

sitrain train --config=grpo --workdir=/tmp/sitrain_grpo

One turn of the hinted maze, with the KL in the loss. Seed 0: from 50 to 70 %
right.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then GRPO."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_policy_gradient(config, "grpo", beta=0.01)
  return common.finish(config, argument)
