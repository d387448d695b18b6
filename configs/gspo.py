"""GSPO: the importance ratio of a whole answer.

sitrain train --config=gspo --workdir=/tmp/sitrain_gspo

One turn of the hinted maze. Answers are short and the rate is large, so ratios
are clipped at 5 % and not at the 0.03 % of the paper.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then GSPO."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_policy_gradient(
    config, "gspo", held={}, clip=0.05, clip_high=0.05
  )
  return common.finish(config, argument)
