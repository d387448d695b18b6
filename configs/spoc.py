"""SPOC on chained arithmetic: attempts, and verdicts of the policy on them.

sitrain train --config=spoc --workdir=/tmp/sitrain_spoc

Three seeds: the last attempt of 53, 57 and 50 % is right before, and of 91, 97
and 95 % after. In seed 0 76 % of wrong first attempts are caught (58 before),
and first attempts go from 43 to 70 %; in seeds 1 and 2 those are 97 and 95 %
right, all are accepted, and no wrong one is caught. With verdicts that are paid
for a yes or a no, as in the paper (named=False), it is 92, 98 and 99 %.
"""

from ml_collections import ConfigDict

from sitrain.configs import common, pag


def get_config(argument: str = "") -> ConfigDict:
  """The base of configs/pag.py, then SPOC."""
  config = common.base_config()
  pag.add_judged_base(config)
  common.add_policy_gradient(config, "spoc", turns=pag.TURNS)
  config.stage.spoc.best = "judge/reward_3"
  return common.finish(config, argument)
