"""SSR-Zero: second attempts of the policy are the judges of its first ones.

sitrain train --config=ssr_zero --workdir=/tmp/sitrain_ssr

The hinted maze. After stage I of SCoRe second attempts keep right answers and
change wrong ones; from then on no verifier gives rewards. Seed 0: first
attempts from 50 % right after stage I to 74 %.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, stage I, then self-rewarding."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_stage_one(config)
  method = {
    "name": "ssr_zero", "problems": 64, "samples": 8, "turns": common.TURNS,
    "votes": 4, "beta": 0.1, "share_prompts": True,
  }
  common.add(config, "ssr", common.stage(
    method, {"learning_rate": 5e-4}, 80, "stage1/last",
    {"reference": "stage1/last"}, best="judge/vote", **common.PARTS,
  ))
  return common.finish(config, argument)
