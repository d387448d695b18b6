"""GRPO with a calculator on the host: a small model learns to call it.

sitrain train --config=calculator --workdir=/tmp/calculator

Products of two numbers of two digits. The base model calls in 3 of 10 problems
and answers the others at once, nearly always wrong. Then GRPO: a call costs
0.05, and earns what the answer after it earns. Three seeds: 25 to 26 % right at
the base, then 85 to 92 %, with a call in 99 % of the problems; 1 to 3 % where
GRPO has no calculator (python -m benchmarks.calculator).
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = (7, 7)  # a call or an answer, then an answer


def get_config(argument: str = "") -> ConfigDict:
  """Base, then GRPO."""
  config = common.base_config()
  config.task = ConfigDict({
    "name": "products", "environment": "calculator",
    "environment_options": {"error": "<bad>", "cost": 0.05},
    "reply_tokens": 8,
  })
  config.evaluate.turns, config.evaluate.problems = TURNS, 512
  common.add(config, "base", common.stage(
    {"name": "imitation", "problems": 256, "turns": TURNS},
    {"learning_rate": 4e-3, "schedule": "cosine", "warmup": 50, "b2": 0.98},
    400, "init", {}, steps_per_call=50, task={"environment": ""},
  ))
  common.add(config, "grpo", common.stage(
    {"name": "grpo", "problems": 32, "samples": 8, "turns": TURNS,
     "discount": 1.0, "beta": 0.01},
    {"learning_rate": 1e-3}, 100, "base/last", common.BASE,
    best="judge/answer_2", steps_per_call=5, fused=False, waves=2,
  ))
  return common.finish(config, argument)
