"""CCT: repairs of wrong attempts, and right ones behind right ones, 60 to 40.

sitrain train --config=cct --workdir=/tmp/sitrain_cct

One round on samples of the base, as configs/pair_sft.py has it.
`--config.stage.cct.method.confident=0` (CST) trains repairs alone, 1 (CLT)
second attempts after right ones alone.

Three seeds: second attempts go from 38, 36 and 36 to 53, 81 and 70 % right;
repairs alone end at 43, 36 and 44, right ones alone at 37, 55 and 63, and
examples of both kinds as they come at 48, 70 and 70. Of wrong attempts 20, 24
and 19 points more are mended than by an independent try.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then one round."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_imitation(config, "cct", rounds=1)
  return common.finish(config, argument)
