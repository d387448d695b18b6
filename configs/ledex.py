"""LeDex on chained arithmetic: diagnoses of own attempts, and refinements.

sitrain train --config=ledex --workdir=/tmp/sitrain_ledex

The base of configs/pag.py, which has seen true diagnoses; imitation of own
diagnoses and refinements that have mended an attempt; then RL with a reward
for each.
"""

from ml_collections import ConfigDict

from sitrain.configs import common, pag


def get_config(argument: str = "") -> ConfigDict:
  """Base, SFT on own repairs, RL."""
  config = common.base_config()
  pag.add_judged_base(config)
  common.add_imitation(
    config, "star", rounds=1, turns=pag.TURNS, trained=(2, 3)
  )
  common.add_policy_gradient(
    config, "ledex", held={"reference": "star/last"}, turns=pag.TURNS
  )
  config.stage.ledex.start = "star/last"
  config.stage.ledex.best = "judge/reward_3"
  return common.finish(config, argument)
