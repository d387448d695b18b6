"""KTO: own samples, each good or bad by itself.

sitrain train --config=kto --workdir=/tmp/sitrain_kto

One turn of the hinted maze; the reference is the base all the while.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then rounds of KTO."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_preference(config, "kto", samples=2)
  return common.finish(config, argument)
