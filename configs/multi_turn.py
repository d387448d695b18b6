"""Standard multi-turn RL: both attempts rewarded, no stage I, no bonus.

sitrain train --config=multi_turn --workdir=/tmp/sitrain_mt

On the hinted maze both attempts improve; the second one's gain depends on the
seed.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then RL."""
  config = common.base_config()
  common.add_base_model(config)

  common.add(config, "rl", common.reinforce(
    "multi_turn", beta1=0.05, beta2=0.05
  ))
  return common.finish(config, argument)
