"""SuperCorrect's correction DPO on chained arithmetic.

sitrain train --config=correction_dpo --workdir=/tmp/sitrain_correction

The base of configs/pag.py; a teacher, which is that base after 200 more steps
on true verdicts that are always followed by the right attempt; then 20 rounds
of DPO on 256 problems, 4 rows of the policy and 4 of the teacher behind one
attempt, in 8 gradient steps each.

Seed 0: of wrong first attempts 25 % are mended before, 49 by the teacher and 73
after; of 26, 36 and 71 % the first wrong step is named. But hardly any attempt
is accepted any more, right ones neither: last ones go from 51 to 72 % right.
"""

import copy

from ml_collections import ConfigDict

from sitrain.configs import common, pag


def get_config(argument: str = "") -> ConfigDict:
  """Base, its teacher, then rounds of DPO."""
  config = common.base_config()
  pag.add_judged_base(config)
  teacher = copy.deepcopy(config.stage.base)
  teacher.start, teacher.steps = "base/last", 200
  teacher.optimizer.learning_rate = 2e-3
  teacher.task = {"copied": 0.0, "corrupted": 0.0, "corrected": 1.0}
  common.add(config, "teacher", teacher)
  config.roles = ConfigDict({"teacher": {"start": "policy", "head": ""}})
  held = common.BASE | {"teacher": "teacher/last"}
  common.add_preference(
    config, "correction_dpo", held, turns=pag.TURNS, samples=4, ends="01234",
    beta=0.1, anchor=0.2,
  )
  stage = config.stage.correction_dpo
  stage.steps, stage.best = 20, "judge/reward_3"
  return common.finish(config, argument)
