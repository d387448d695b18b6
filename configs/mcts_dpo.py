"""MCTS-DPO: pairs of sibling steps from search trees, trained by DPO.

sitrain train --config=mcts_dpo --workdir=/tmp/sitrain_mcts

One turn of the hinted maze, a room a step; trees of 12 nodes on each of 128
problems and 4 gradient steps a round. Seed 0: from 49 to 56 % right (hinted: 51
to 65). Sensitive to its settings: with `explore` 4 or 5, which makes more
pairs, and a learning rate of 5e-4 or more, attempts become malformed and
accuracy falls below that of the base.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = common.TURNS[:1]


def get_config(argument: str = "") -> ConfigDict:
  """Base, then rounds of search and DPO."""
  config = common.base_config()
  common.add_base_model(config)
  method = {
    "name": "mcts_dpo", "problems": 128, "turns": TURNS, "nodes": 12,
    "width": 4, "beta": 0.1, "anchor": 0.2,
  }
  common.add(config, "mcts_dpo", common.stage(
    method, {"learning_rate": 5e-4}, 40, "base/last", common.BASE,
    steps_per_call=5, best="", minibatches=4,
  ))
  return common.finish(config, argument)
