"""Best of n: imitate the best of eight samples of every problem.

sitrain train --config=best_of_n --workdir=/tmp/sitrain_bon

Three rounds on one turn of the hinted maze, each from the one before.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then three rounds."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_imitation(
    config, "best_of_n", rounds=3, turns=common.TURNS[:1]
  )
  return common.finish(config, argument)
