"""Chain of hindsight: a right and a wrong sample in one row, with tags.

sitrain train --config=chain_of_hindsight --workdir=/tmp/sitrain_hindsight

Strings under constraints, asked with `<ok>`; two rounds, each from the one
before. `--config.stage.chain_of_hindsight.method.train_bad=False`: wrong
samples are only read. Three seeds: 42, 50 and 44 % right; right samples alone
61, 60 and 55; wrong ones only read 60, 60 and 57: it does harm to train them.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then two rounds."""
  config = common.base_config()
  common.add_tagged(config, "chain_of_hindsight")
  return common.finish(config, argument)
