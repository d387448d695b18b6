"""GiGPO: tic-tac-toe against random moves, a move a turn.

sitrain train --config=gigpo --workdir=/tmp/sitrain_gigpo

The games of a problem have the same opponent, who answers equal moves equally,
so many turns begin behind the same moves and are compared with each other. In
the mean of three seeds from 44.6 to 80.3 % won [78.6, 82.0], and to 74.0 %
[71.9, 76.1] without the advantage of turns (weight=0).
"""

from ml_collections import ConfigDict

from sitrain.configs import common

MOVES = (1,) * 9  # of both seats, a token each


def get_config(argument: str = "") -> ConfigDict:
  """Imitation of random games, then GiGPO."""
  config = common.base_config()
  config.task = ConfigDict({"name": "tic_tac_toe", "opponent": "random"})
  config.evaluate.turns = MOVES[:5]
  common.add_base_model(config)
  config.stage.base.method.turns = MOVES
  config.stage.base.task = ConfigDict({"opponent": "self"})
  common.add_policy_gradient(
    config, "gigpo", share_prompts=False, beta=0.01
  )
  stage = config.stage.gigpo
  stage.method.turns, stage.task = MOVES[:5], ConfigDict({"paid": "last"})
  stage.best = ""
  return common.finish(config, argument)
