"""PAG on chained arithmetic: attempts, and verdicts of the policy on them.

sitrain train --config=pag --workdir=/tmp/sitrain_pag

Seed 0: of the problems 49 % have a right last attempt before and 88 % after;
first attempts 46 and 78 %. Revisions mend 10 % and spoil 1 %. Of wrong attempts
53 % are caught before and 52 % after, and 66 and 92 % of right ones accepted.
Direct multi-turn RL on the same turns and with the same pay (multi_turn,
named=False) has 82 and 82 % and catches 7 %. Where verdicts are paid only for
naming the wrong step, direct RL has 78 and 78 % and catches 2 %, and PAG 78 and
79 % and catches 9 %. Seeds 1 and 2, after advantages were rounded otherwise: in
all of these 97 to 99 % of first attempts are right, and of the wrong ones 0 to
8 % are caught. So PAG is not better than direct RL here.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURNS = (4, 4, 4)  # an attempt, a verdict on it, another attempt


def get_config(argument: str = "") -> ConfigDict:
  """Imitation of attempts and true verdicts on them, then PAG."""
  config = common.base_config()
  add_judged_base(config)
  common.add_policy_gradient(
    config, "pag", held={}, turns=TURNS, baseline="same_outcome"
  )
  config.stage.pag.best = "judge/reward_3"
  return common.finish(config, argument)


def add_judged_base(config: ConfigDict) -> None:
  """A base that can add and judge about half of the time."""
  config.task = ConfigDict({
    "name": "chain.critic", "operations": (2, 3), "modulus": 5,
    "mistake": 0.25,
  })
  config.evaluate.turns = TURNS
  common.add_base_model(config)
  config.stage.base.steps, config.stage.base.method.turns = 600, TURNS
