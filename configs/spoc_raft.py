"""SPOC by RAFT on chained arithmetic: the best sample's right messages.

sitrain train --config=spoc_raft --workdir=/tmp/sitrain_spoc_raft

As configs/spoc.py, with verdicts that are a yes or a no, as in the paper.

Seed 0: of the problems 51 % have a right last attempt before and 87 % after (80
with RLOO on as many samples), first attempts 47 and 80 %. Of wrong attempts 52
% are caught before and 43 after (RLOO: 0.5), of right ones 61 and 88 accepted.
Seeds 1 and 2: 98 and 99 % of first attempts are right, and no wrong one caught.
"""

from ml_collections import ConfigDict

from sitrain.configs import common, pag


def get_config(argument: str = "") -> ConfigDict:
  """The base of configs/pag.py, then RAFT."""
  config = common.base_config()
  pag.add_judged_base(config)
  common.add_policy_gradient(
    config, "spoc_raft", held={}, share_prompts=False, turns=pag.TURNS,
    named=False,
  )
  config.stage.spoc_raft.best = "judge/reward_3"
  return common.finish(config, argument)
