"""SPIN: given solutions against own samples, until there is no difference.

sitrain train --config=spin --workdir=/tmp/sitrain_spin

Chained arithmetic whose given solutions are all right, with a base that was
trained on few of them. In the mean of two seeds from 25.6 to 32.4 % right.
Imitation of as many solutions in as many gradient steps reaches 47.5 %, 15.1
points more [7.0, 23.2]: for such a weak base imitation is better than the
comparison.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TASK = {"name": "chain", "operations": (2, 3), "mistake": 0.0}
TURNS = (4,)  # a digit for each operation, and the end
BASE_STEPS = 100


def get_config(argument: str = "") -> ConfigDict:
  """An undertrained base, then rounds of SPIN."""
  config = common.base_config()
  config.task = ConfigDict(TASK)
  config.evaluate.turns = 2 * TURNS
  common.add_base_model(config)
  config.stage.base.steps = BASE_STEPS
  config.stage.base.method.turns = TURNS
  method = {
    "name": "spin", "problems": 512, "turns": TURNS, "beta": 0.1, "anchor": 0.2
  }
  common.add(config, "spin", common.stage(
    method, {"learning_rate": 1e-3}, 40, "base/last", common.BASE,
    steps_per_call=5, best="judge/reward_1", minibatches=8, microbatches=2,
  ))
  return common.finish(config, argument)
