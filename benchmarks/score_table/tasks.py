"""The tasks of the table: problems, model and base training of each."""

from typing import NamedTuple

from ml_collections import ConfigDict

from benchmarks.score_table import grid
from sitrain.configs import common, countdown


class Sizes(NamedTuple):
  """What differs between the tasks."""

  task: dict
  turns: tuple[int, int]
  model: dict  # fields of config.model, where not the quickstart's
  base_steps: int
  base_rate: float
  stage_one: int  # steps at most; fewer where turn 2 has converged before


SIZES = {
  "maze": Sizes(
    {"name": "maze", "hinted": 0.5}, common.TURNS, {}, 300, 4e-3, 360
  ),
  "countdown": Sizes(
    countdown.TASK, countdown.TURNS, {}, countdown.BASE_STEPS, 4e-3, 200
  ),
  # For a GPU: 25 M parameters, four numbers, solutions in the base corpus.
  "countdown_4": Sizes(
    {"name": "countdown", "numbers": 4, "largest": 25, "solved": 0.5},
    (21, 21),
    {"layers": 8, "width": 512, "heads": 8, "kv_heads": 8, "head_size": 64,
     "mlp_size": 1408, "dtype": "bfloat16"},
    20_000, 6e-4, 200,
  ),
}


def config_of(task: str, seed: int) -> ConfigDict:
  """A run of a task without stages."""
  config = common.base_config()
  sizes = SIZES[task]
  config.seed = seed
  config.task = ConfigDict(sizes.task)
  config.model.update(sizes.model)
  config.evaluate.turns = sizes.turns
  # Tuning uses other problems than the reported runs.
  config.evaluate.seed = 8 if seed in grid.TUNING else 7
  config.run.save_every = 5
  return config


def add_base(config: ConfigDict, task: str) -> None:
  """Imitation of the task's corpus, from nothing."""
  common.add_base_model(config)
  base, sizes = config.stage.base, SIZES[task]
  base.steps, base.method.turns = sizes.base_steps, sizes.turns
  base.optimizer.learning_rate = sizes.base_rate
