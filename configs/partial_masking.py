"""ISC with partial answer masking: true verdicts on own attempts, and repairs.

sitrain train --config=partial_masking --workdir=/tmp/sitrain_masking

One round on samples of the base of configs/pag.py, chained arithmetic.
`--config.stage.partial_masking.method.wrong=1` trains wrong attempts, too, the
paper's ablation, and `bad` is the share of cases that have one.
"""

from ml_collections import ConfigDict

from sitrain.configs import common, pag


def get_config(argument: str = "") -> ConfigDict:
  """The base of configs/pag.py, then one round."""
  config = common.base_config()
  pag.add_judged_base(config)
  common.add_imitation(config, "partial_masking", rounds=1, turns=pag.TURNS)
  return common.finish(config, argument)
