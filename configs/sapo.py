"""SAPO: a soft gate in the place of clipping.

sitrain train --config=sapo --workdir=/tmp/sitrain_sapo

One turn of the hinted maze.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then SAPO."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_policy_gradient(config, "sapo", held={})
  return common.finish(config, argument)
