"""Pair-SFT: wrong base attempts paired with right ones as corrections.

sitrain train --config=pair_sft --workdir=/tmp/sitrain_sft

One round on samples of the base. Seed 0: 34 and 36 % right.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then one round."""
  config = common.base_config()
  common.add_base_model(config)

  common.add_imitation(config, "pair_sft", rounds=1, also_correct=False)
  return common.finish(config, argument)
