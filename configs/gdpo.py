"""GDPO: strings under constraints, with two named rewards.

sitrain train --config=gdpo --workdir=/tmp/sitrain_gdpo

One reward for a string that meets all constraints, another for each that it
meets; both are normalised by themselves. The evaluation counts the first alone.
In the mean of three seeds from 34.9 to 76.3 % right [72.7, 79.8], no better
than GRPO on the sum of both rewards (77.0 [76.2, 77.7]).
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = (7, 7)  # six letters and the end, twice


def get_config(argument: str = "") -> ConfigDict:
  """Base, then GDPO."""
  config = common.base_config()
  config.task = ConfigDict({"name": "strings"})
  config.evaluate.turns = TURNS
  common.add_base_model(config)
  config.stage.base.method.turns = TURNS
  common.add_policy_gradient(
    config, "gdpo", held={}, weights={"right": 1.0, "points": 1.0}
  )
  stage = config.stage.gdpo
  stage.method.turns, stage.task = TURNS[:1], ConfigDict({"point": 0.1})
  stage.best = "judge/right_1"
  return common.finish(config, argument)
