"""SPOC by RAFT on chained arithmetic: the best sample's right messages.

sitrain train --config=spoc_raft --workdir=/tmp/sitrain_spoc_raft

As configs/spoc.py, with verdicts that are a yes or a no, as in the paper.

Three seeds: of the problems 53, 57 and 50 % have a right last attempt before,
and 88, 99 and 99 % after (94, 96 and 99 with RLOO on as many samples). In seed
0 66 % of wrong first attempts are caught (RLOO: 84), in the others, where 99 %
of first attempts are right, none (9 and 10).
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
