"""A reward model on pairs of own samples, and GRPO that it alone pays.

python -m sitrain.main --config=configs/reward_model.py --workdir=/tmp/rm

One turn of the hinted maze: the base samples, its right and wrong samples train
a Bradley-Terry model that begins as the base, and GRPO is paid by that model's
score; the verifier is only asked for the report.
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
    rows | {"name": "reward_model"}, {"learning_rate": 1e-3}, 200,
    "base/last", {"policy": "base/last"}, trained=("reward_model",),
  ))
  held = common.BASE | {"reward_model": "rm/last"}
  common.add(config, "grpo", common.stage(
    rows | {"name": "grpo", "beta": 0.1, "reward_role": "reward_model"},
    {"learning_rate": 1e-3}, 200, "base/last", held, best="judge/reward_1",
    **common.PARTS,
  ))
  return common.finish(config, argument)
