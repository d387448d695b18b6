"""Dr. GRPO: GRPO without deviations, lengths and KL.

sitrain train --config=dr_grpo --workdir=/tmp/sitrain_dr

One turn of the hinted maze.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then Dr. GRPO."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_policy_gradient(config, "dr_grpo", held={})
  return common.finish(config, argument)
