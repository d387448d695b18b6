"""SCoRe on chained modular arithmetic with written steps.

sitrain train --config=chain --workdir=/tmp/sitrain_chain

Unlike in the maze, the first attempt can reach 100 %, and the second sees the
steps of the first. Seed 0: the base is 23 and 20 % right, after stage II 31 and
30 %: both attempts improve, and no correction is learned from this short base
training.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, stage I, stage II."""
  config = common.base_config()
  config.task = ConfigDict({"name": "chain", "operations": (2, 4)})
  common.add_base_model(config)
  common.add_score(config)
  return common.finish(config, argument)
