"""SPIRAL: tic-tac-toe against itself, from a model of random legal games.

sitrain train --config=spiral --workdir=/tmp/sitrain_spiral

Evaluated against random legal moves, in both seats: accuracy is the share of
won games, malformed_5 the share of games lost by an invalid move. Seed 0: from
44 to 60 % won, from 1.8 to 3.0 % lost by an invalid move.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

MOVES = (1,) * 9  # of both seats, a token each


def get_config(argument: str = "") -> ConfigDict:
  """Imitation of random games, then self-play."""
  config = common.base_config()
  config.task = ConfigDict({"name": "tic_tac_toe", "opponent": "self"})
  config.evaluate.turns = MOVES[:5]
  config.evaluate.task = ConfigDict({"opponent": "random"})
  common.add_base_model(config)
  config.stage.base.method.turns = MOVES
  method = {"name": "spiral", "problems": 512, "turns": MOVES, "beta": 0.05}
  common.add(config, "spiral", common.stage(
    method, {"learning_rate": 3e-4}, 200, "base/last", common.BASE,
  ))
  return common.finish(config, argument)
