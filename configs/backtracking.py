"""To Backtrack or Not to Backtrack: search traces against direct answers.

sitrain train --config=backtracking --workdir=/tmp/sitrain_backtracking

2025, arXiv:2504.07052, in the small: two models are trained from scratch on the
same boards of Countdown, one on serialised searches and one on the answers
alone, and GRPO goes on from both; "spared" is Clip-Cov in its place, to keep
the direct model's many answers. `python -m benchmarks.habits` compares them at
equal compute. `:mixed` has searches in random orders, `:think` searches that
skip the steps that fail.

Percent right on unseen boards, three seeds: searches 35 -> 39, direct 34 -> 42
with pass@32 from 80 to 66, by Clip-Cov 40 with 71.

Left out: Sudoku, models of 17 to 38 M parameters, and turns of 4,096 tokens (64
here); the paper's sizes of the searches are known from its abstract and the
authors' arrays alone.
"""

from ml_collections import ConfigDict

from sitrain.configs import common

TURN = 64  # tokens of a search and its answer
ALONE = 12  # of an answer
TASK = {
  "name": "countdown_traces", "numbers": 3, "largest": 15, "length": TURN,
  "habits": "backtracking",
}
DIRECT = {"habits": "", "order": "random"}
KINDS = {"": {}, "mixed": {"order": "random"}, "think": {"skip": True}}


def get_config(argument: str = "") -> ConfigDict:
  """Both models by imitation, each by GRPO, and the direct one by Clip-Cov.

  argument: one of KINDS, and after a comma what `common.finish` takes.
  """
  kind, rest = common.kind_of(argument, KINDS, "")
  config = base_config()
  config.task.update(KINDS[kind])
  imitate(config, "search", {}, TURN)
  imitate(config, "direct", DIRECT, ALONE)
  reinforce(config, "search_rl", {}, TURN, "search")
  reinforce(config, "direct_rl", DIRECT, ALONE, "direct")
  reinforce(
    config, "spared_rl", DIRECT, ALONE, "direct", name="clip_cov", share=0.05
  )
  return finish(config, rest)


def base_config() -> ConfigDict:
  """A small model, evaluated on boards that no stage has."""
  config = common.base_config()
  config.task = ConfigDict(TASK)
  config.model.mlp_size = 192
  config.evaluate.update({
    "turns": (TURN, ALONE), "problems": 512, "resamples": 2,
    "task": {"part": "test", "rows": 1024},
  })
  return config


def imitate(
  config: ConfigDict, name: str, task: dict, turn: int, problems: int = 64,
  steps: int = 500, start: str = "init", rate: float = 3e-3,
) -> None:
  """A stage that imitates the corpus of the task with some other options."""
  method = {"name": "imitation", "problems": problems, "turns": (turn,)}
  optimizer = {
    "learning_rate": rate, "schedule": "cosine", "warmup": 20, "b2": 0.98
  }
  common.add(config, name, common.stage(
    method, optimizer, steps, start, {}, steps_per_call=50, task=task,
  ))


def reinforce(
  config: ConfigDict, stage: str, task: dict, turn: int, start: str,
  steps: int = 150, **options
) -> None:
  """RL of a stage's policy, 256 episodes a step."""
  method = {
    "name": "grpo", "problems": 32, "samples": 8, "turns": (turn,),
  } | options
  if method["name"] == "grpo":
    method |= {"beta": 0.0, "kl": "none"}
  common.add(config, stage, common.stage(
    method, {"learning_rate": 2e-4}, steps, f"{start}/last", {},
    steps_per_call=10, microbatches=2, best="judge/reward_1", task=task,
  ))


def finish(config: ConfigDict, argument: str) -> ConfigDict:
  """As `common.finish`; a quick run writes short tables."""
  if argument:
    config.task.rows = config.evaluate.task.rows = 64
  return common.finish(config, argument)
