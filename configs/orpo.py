"""ORPO: imitation of right samples, with the odds of wrong ones beside it.

sitrain train --config=orpo --workdir=/tmp/sitrain_orpo

One turn of the hinted maze.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then rounds of ORPO."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_preference(config, "orpo", held={}, weight=0.5)
  return common.finish(config, argument)
