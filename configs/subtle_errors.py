"""Subtle errors: right samples against copies of them with an error in a step.

sitrain train --config=subtle_errors --workdir=/tmp/sitrain_subtle_errors

Chained arithmetic modulo 5; each digit is a step. A pair of samples and a pair
with an injected error for each of 256 problems, and 8 gradient steps a round.
On seed 0 it is right in 59.8 %, DPO on as many pairs of two samples in 60.1: no
gain.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = (4,)  # a digit for each operation, and the end


def get_config(argument: str = "") -> ConfigDict:
  """Base, then rounds of DPO on both kinds of pairs."""
  config = common.base_config()
  config.task = ConfigDict({
    "name": "chain", "operations": (2, 3), "modulus": 5, "mistake": 0.25,
  })
  config.evaluate.turns = 2 * TURNS
  common.add_base_model(config)
  config.stage.base.method.turns = TURNS
  common.add_preference(
    config, "subtle_errors", turns=TURNS, values="01234", ends="01234"
  )
  config.stage.subtle_errors.steps = 20
  return common.finish(config, argument)
