"""SFT on given solutions, a part of whose tokens is hidden from the inputs.

sitrain train --config=sft --workdir=/tmp/sitrain_sft

Chained arithmetic whose given solutions are all right. With
--config.stage.sft.method.rate=0 nothing is hidden, and with share=0.5 the
hardest half of the tokens is trained alone.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = (4,)  # a digit for each operation, and the end


def get_config(argument: str = "") -> ConfigDict:
  """SFT from nothing."""
  config = common.base_config()
  config.task = ConfigDict(
    {"name": "chain", "operations": (2, 3), "mistake": 0.0}
  )
  config.evaluate.turns = 2 * TURNS
  method = {
    "name": "sft", "problems": 256, "turns": TURNS, "rate": 0.2, "warmup": 100
  }
  optimizer = {
    "learning_rate": 4e-3, "schedule": "cosine", "warmup": 50, "b2": 0.98
  }
  common.add(config, "sft", common.stage(
    method, optimizer, 300, "init", {}, steps_per_call=50
  ))
  return common.finish(config, argument)
