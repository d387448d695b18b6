"""STaR: imitation of own traces that correct themselves, from the base.

sitrain train --config=star --workdir=/tmp/sitrain_star

Three rounds; each samples with the current policy and restarts from the base.
Seed 0: 45 and 46 % right.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then three rounds."""
  config = common.base_config()
  common.add_base_model(config)

  common.add_imitation(config, "star", rounds=3, also_correct=False)
  return common.finish(config, argument)
