"""LeDex on chained arithmetic: diagnoses of own attempts, and refinements.

sitrain train --config=ledex --workdir=/tmp/sitrain_ledex

The base of configs/pag.py, which has seen true diagnoses; imitation of own
diagnoses and refinements that have mended an attempt; then RL with a reward
for each.

Three seeds, of wrong first attempts: 65, 75 and 55 % are mended after SFT, 82,
82 and 68 after RL (before: 25, 25 and 21), and of 44, 42 and 49, then of 67, 50
and 36 % the first wrong step is named. RL on the refinement alone (explain=0,
discount=0.99) mends 81, 79 and 69 and names 47, 22 and 26 %. Nothing teaches to
accept a right attempt, since there an executor does that: 0, 0 and 2 % are.
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
