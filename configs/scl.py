"""SCL: own two attempts as a pair under the question, where one is right.

sitrain train --config=scl --workdir=/tmp/sitrain_scl

The hinted maze, two attempts at each of 256 problems, twice, and 8 gradient
steps a round. `--config.stage.scl.method.scope=review` puts the pair behind the
first attempt.

Seed 0: **first attempts do not improve**, from 49 to 44 % right; DPO on as many
independent attempts has 44, too. In this task a wrong attempt ends with a sign
that it has failed, and both learn not to write that sign rather than to find
the way: 21 and 22 % of their attempts have no end (base: 0).
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
