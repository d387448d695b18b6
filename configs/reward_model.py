"""A reward model on pairs of own samples, and GRPO with its score as reward.

sitrain train --config=reward_model --workdir=/tmp/rm

One turn of the hinted maze. Right and wrong samples of the base train a
Bradley-Terry model that starts as the base, and its score is the reward of
GRPO; the verifier serves the report only. Seed 0: from 49 to 63 % right. With
beta=0.1, kl="k3" and 200 steps of the reward model the policy exploited it:
scores of wrong rows reached those of right ones within 12 steps, and after 60
no row was right.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = common.TURNS[:1]


def get_config(argument: str = "") -> ConfigDict:
  """Base, reward model, GRPO."""
  config = common.base_config()
  role = {"start": "policy", "head": "scalar", "path": ""}
  config.roles = ConfigDict({"reward_model": role})
  common.add_base_model(config)
  rows = {"problems": 64, "samples": 8, "turns": TURNS}
  common.add(config, "rm", common.stage(
    rows | {"name": "reward_model"}, {"learning_rate": 1e-3}, 60,
    "base/last", {"policy": "base/last"}, trained=("reward_model",),
  ))
  held = common.BASE | {"reward_model": "rm/last"}
  # The score is unreliable on walks that the base does not write, so the KL is
  # strong and exact.
  paid = {
    "name": "grpo", "beta": 0.5, "kl": "exact", "reward_role": "reward_model",
    "aggregate": "episode_sum", "share_prompts": True,
  }
  common.add(config, "grpo", common.stage(
    rows | paid, {"learning_rate": 1e-3}, 100, "base/last", held,
    best="judge/reward_1", **common.PARTS,
  ))
  return common.finish(config, argument)
