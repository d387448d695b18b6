"""SCoRe on chained modular arithmetic with written steps.

python -m sitrain.main --config=configs/chain.py --workdir=/tmp/sitrain_chain

A task of another kind than the maze: the first attempt can rise to its end, and
the second sees the steps of the first. Seed 0: the base is 23 and 20 %
right, after stage II 31 and 30 %: both rise, and no correction is learned from
so short a base training.
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
