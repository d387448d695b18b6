"""IPO: pairs of own samples, whose margin has a target.

sitrain train --config=ipo --workdir=/tmp/sitrain_ipo

One turn of the hinted maze.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then rounds of IPO."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_preference(config, "ipo", beta=0.5, anchor=0.2)
  return common.finish(config, argument)
