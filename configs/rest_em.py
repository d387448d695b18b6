"""ReST-EM: imitate the right samples, every round from the base.

sitrain train --config=rest_em --workdir=/tmp/sitrain_em

Three rounds on one turn of the hinted maze.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then three rounds."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_imitation(
    config, "rest_em", rounds=3, turns=common.TURNS[:1], per_problem=4
  )
  return common.finish(config, argument)
