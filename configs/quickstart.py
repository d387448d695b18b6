"""SCoRe end to end in a few minutes on two cores: the hinted corridor maze.

sitrain train --config=quickstart --workdir=/tmp/sitrain

A base model whose second attempt is worse than its first; stage I until its
second attempt has converged; stage II with the bonus. Seed 0: 49 and 38 %
right, then 50 and 96, then 70 and 98.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, stage I, stage II."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_score(config)
  return common.finish(config, argument)
