"""SEC: a bandit chooses between hinted and unhinted mazes.

sitrain train --config=sec --workdir=/tmp/sitrain_sec

One turn of the hinted maze, with hinted and unhinted problems as the arms. The
reward of the bandit is the absolute advantage, which is largest where half of
the samples are right. So it prefers the unhinted problems, which cannot improve
further, when the hinted ones are solved. Seed 0: from 49 to 73 % right. The
same GRPO on problems drawn uniformly has 70 %; one seed cannot show a
difference.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = common.TURNS[:1]


def get_config(argument: str = "") -> ConfigDict:
  """Base, then GRPO on problems that the bandit chooses."""
  config = common.base_config()
  common.add_base_model(config)
  method = {
    "name": "sec", "problems": 64, "samples": 8, "turns": TURNS, "beta": 0.05,
    "aggregate": "episode_sum", "share_prompts": True,
  }
  common.add(config, "sec", common.stage(
    method, {"learning_rate": 5e-4}, 100, "base/last", common.BASE,
    best="judge/reward_1", **common.PARTS,
  ))
  return common.finish(config, argument)
