"""The base model alone: imitation of the corpus of a task.

sitrain train --config=imitation --workdir=/tmp/sitrain_base

Its second attempt is worse than its first. The other methods start from it.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base."""
  config = common.base_config()
  common.add_base_model(config)
  return common.finish(config, argument)
