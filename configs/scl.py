"""SCL: own two attempts as a pair under the question, where one is right.

sitrain train --config=scl --workdir=/tmp/sitrain_scl

The hinted maze: 20 rounds of 256 problems, two rows of two attempts each, and 8
gradient steps a round. `--config.stage.scl.method.scope=review` puts the pair
behind the first attempt.

Three seeds: **first attempts do not improve but in one**, from 50, 52 and 49 to
46, 65 and 21 % right; DPO on as many independent attempts has 65, 71 and 73.
Behind the first attempt the pairs take second ones from 38, 36 and 36 to 40, 42
and 51 %.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then rounds of DPO on these pairs."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_preference(
    config, "scl", turns=common.TURNS, samples=2, beta=0.1, anchor=0.2
  )
  config.stage.scl.steps, config.stage.scl.best = 20, "judge/reward_2"
  return common.finish(config, argument)
