"""Rejection sampling fine-tuning: imitation of a stage's right samples.

sitrain train --config=rft --workdir=/tmp/sitrain_rft

Yuan et al. 2023 (arXiv:2308.01825): a stage writes samples of the base, and the
next one imitates the right ones, at most four a problem, from the base. One
turn of the hinted maze. Seed 0: from 50 to 67 % right.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = common.TURNS[:1]


def get_config(argument: str = "") -> ConfigDict:
  """Base, a table of its samples, imitation of the right ones."""
  config = common.base_config()
  common.add_base_model(config)
  sampling = {
    "name": "single_turn", "problems": 256, "samples": 8, "turns": TURNS,
    "kl": "none",
  }
  common.add(config, "samples", common.stage(
    sampling, {}, 16, "base/last", {}, steps_per_call=1, writes=True,
  ))
  imitation = {"name": "imitation", "problems": 256, "turns": TURNS}
  quick = common.quick_of(argument)
  least = 1.0 if quick is None else 0.0  # An untrained model is wrong.
  common.add(config, "rft", common.stage(
    imitation, {"learning_rate": 1e-3, "schedule": "cosine"}, 120,
    "base/last", {},
    table={"stage": "samples", "least": least, "per_problem": 4},
  ))
  return common.finish(config, argument)
