"""LeDex on chained arithmetic: diagnoses of own attempts, and refinements.

sitrain train --config=ledex --workdir=/tmp/sitrain_ledex

The base of configs/pag.py, which has seen true diagnoses; imitation of own
diagnoses and refinements that have mended an attempt; then RL with a reward
for each.

Seed 0, of wrong first attempts: 25, 65 and 82 % are mended, by the base, after
SFT and after RL, and of 28, 44 and 67 % the first wrong step is named. RL on
the refinement alone (explain=0, discount=0.99) mends 81 and names 47 %. Nothing
teaches to accept a right attempt, since there an executor does that: none is.
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
