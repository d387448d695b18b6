"""SimPO: pairs of own samples, without a reference.

sitrain train --config=simpo --workdir=/tmp/sitrain_simpo

One turn of the hinted maze.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then rounds of SimPO."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_preference(config, "simpo", held={}, anchor=0.2)
  return common.finish(config, argument)
