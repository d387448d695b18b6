"""CCT: repairs of wrong attempts, and right ones behind right ones, 60 to 40.

sitrain train --config=cct --workdir=/tmp/sitrain_cct

One round on samples of the base, as configs/pair_sft.py has it.
`--config.stage.cct.method.confident=0` (CST) trains repairs alone, 1 (CLT)
second attempts after right ones alone.

Seed 0: second attempts go from 38 to 58 % right, first ones, which are not
trained, from 49 to 44. Of wrong attempts 57 % are mended, of right ones 59 %
stay right; repairs alone mend 72 and keep 1 %, with 44 % right in the end, and
examples of both kinds as they come have 41, 54 and 45 %.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then one round."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_imitation(config, "cct", rounds=1)
  return common.finish(config, argument)
