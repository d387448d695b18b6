"""CISPO: clipped weights, and a gradient for every token.

sitrain train --config=cispo --workdir=/tmp/sitrain_cispo

One turn of the hinted maze.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then CISPO."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_policy_gradient(config, "cispo", held={})
  return common.finish(config, argument)
