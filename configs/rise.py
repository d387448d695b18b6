"""RISE: two turns of own attempts, weighed by their rewards, from the base.

sitrain train --config=rise --workdir=/tmp/sitrain_rise
sitrain evaluate --workdir=/tmp/sitrain_rise --max_turns=5 --window=2

The hinted maze, two rounds as in the paper; of the second attempt the best of
eight. The second command plays five turns, each of which sees the one before.
As in the paper a trajectory stops at a right attempt, so the policy learns to
change every attempt: in seed 0 turns 1 to 5 are 64, 36, 62, 36 and 61 % right,
and over three seeds their majority is as good as that of five first attempts
(72 and 72). With stop=False repeats=True, which also trains what follows a
right attempt, it is better (82 and 72), and turn 5 is better than turn 1 (76
and 69).
"""

from ml_collections import ConfigDict

from sitrain.configs import common


def get_config(argument: str = "") -> ConfigDict:
  """Base, then two rounds."""
  config = common.base_config()
  common.add_base_model(config)
  common.add_imitation(config, "rise", rounds=2, samples=2, best_of=8)
  return common.finish(config, argument)
