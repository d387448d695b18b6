"""ISC with partial answer masking: true verdicts on own attempts, and repairs.

sitrain train --config=partial_masking --workdir=/tmp/sitrain_masking

One round on samples of the base of configs/pag.py, chained arithmetic.
`--config.stage.partial_masking.method.wrong=1` trains wrong attempts, too, the
paper's ablation, and `bad` is the share of cases that have one.

Seed 0: first attempts go from 47 to 69 % right (49 with wrong ones trained, 72
on good cases alone), last ones from 51 to 71. Of wrong attempts 25 and 38 % are
mended, still fewer than an independent try would: no correction is learned.
"""

from ml_collections import ConfigDict

from sitrain.configs import common, pag


def get_config(argument: str = "") -> ConfigDict:
  """The base of configs/pag.py, then one round."""
  config = common.base_config()
  pag.add_judged_base(config)
  common.add_imitation(config, "partial_masking", rounds=1, turns=pag.TURNS)
  return common.finish(config, argument)
