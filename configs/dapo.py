"""DAPO: clip higher, a mean over tokens, problems that have a signal.

sitrain train --config=dapo --workdir=/tmp/sitrain_dapo

One turn of the hinted maze; problems whose samples are all right or all wrong
are drawn again, up to three times. Answers of this task have one length, so
long ones are not charged (method.margin).
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then DAPO."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_policy_gradient(config, "dapo", held={}, rounds=3)
  return common.finish(config, argument)
