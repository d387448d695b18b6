"""SPOC on chained arithmetic: attempts, and verdicts of the policy on them.

sitrain train --config=spoc --workdir=/tmp/sitrain_spoc

Seed 0: the last attempt of 49 % of the problems is right before, and of 80 %
after, all of it by a better first attempt (46 and 80 %). The policy ends up
accepting nearly every attempt: of wrong ones 53 % are caught before, 1 % after.
With verdicts that are paid for a yes or a no, as in the paper (named=False), it
is 82 % (attempt 1: 80), and 10 % are caught. Seeds 1 and 2 have 97 and 95 % of
first attempts right, and catch none.
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
