"""SEC: a bandit chooses the length of the chains that are posed.

python -m sitrain.main --config=configs/sec.py --workdir=/tmp/sitrain_sec

Chained arithmetic of 2 to 6 operations, one turn, from a short base training.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = (7, 7)  # tokens a turn: six values and the end


def get_config(argument: str = "") -> ConfigDict:
  """Base, then GRPO on problems that the bandit chooses."""
  config = common.base_config()
  config.task = ConfigDict({"name": "chain", "operations": (2, 6)})
  config.evaluate.turns = TURNS
  common.add_base_model(config)
  config.stage.base.method.turns = TURNS
  method = {
    "name": "sec", "problems": 64, "samples": 8, "turns": TURNS[:1],
    "beta": 0.05,
  }
  common.add(config, "sec", common.stage(
    method, {"learning_rate": 1e-3}, 200, "base/last", common.BASE,
    best="judge/reward_1", **common.PARTS,
  ))
  return common.finish(config, argument)
