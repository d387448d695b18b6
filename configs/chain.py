"""SCoRe on chained modular arithmetic with written steps.

python -m sitrain.main --config=configs/chain.py --workdir=/tmp/chain

A task of another kind than the maze: the first attempt can rise to its end, and
the second sees the steps of the first.
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
