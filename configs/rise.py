"""RISE: two turns of own attempts, weighed by their rewards, from the base.

sitrain train --config=rise --workdir=/tmp/sitrain_rise
sitrain evaluate --workdir=/tmp/sitrain_rise --max_turns=5 --window=2

The hinted maze, two rounds as in the paper; of the second attempt the best of
eight. The second command plays five turns, each of which sees the one before.
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then two rounds."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_imitation(config, "rise", rounds=2, samples=2, best_of=8)
  return common.finish(config, argument)
