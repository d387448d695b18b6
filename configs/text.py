"""Functions and defaults of the configs of text tasks."""

from ml_collections import ConfigDict

from sitrain.configs import common

MODEL = "Qwen/Qwen2.5-1.5B-Instruct"


def base_config(
  task: dict, *, test: dict, turns: tuple[int, ...]
) -> ConfigDict:
  """A run of a model of the hub without stages.

  `test` has the options of the task for evaluation.
  """
  config = common.base_config()
  config.task = ConfigDict(task)
  config.tokenizer = ConfigDict({
    "path": "",  # the model's own
    "template": "",  # the tokenizer's own
    "reasoning": "refuse",
  })
  config.model = ConfigDict({
    "path": MODEL, "dtype": "bfloat16", "scan": True, "remat": "auto",
    "residual": "whole", "attention": "auto",
    "lora": {"rank": 0, "alpha": 32.0},  # rank 0 trains all parameters
  })
  config.evaluate.update({
    "turns": turns, "problems": 500, "batch": 256, "resamples": 2,
    "temperature": 1.0, "task": ConfigDict(test),
  })
  return config


def test_set(
  task: dict, *, turns: tuple[int, ...], argument: str
) -> ConfigDict:
  """A test set for a model as it is, answered greedily; nothing is trained.

  Raises ValueError for an argument.
  """
  if argument:
    raise ValueError(
      f"config argument {argument!r}: a test set has none; --problems=8 takes "
      "the first eight"
    )
  config = base_config(task, test={}, turns=turns)
  # Not all at once: the display counts the parts.
  config.evaluate.update({"batch": 64, "temperature": 0.0})
  return config


def add_score(
  config: ConfigDict, *, turns: tuple[int, ...], problems: int, steps: int,
  learning_rate: float, beta2: float, fused: bool = False,
) -> None:
  """SCoRe with the settings of the paper, and our choice of the others.

  The paper's: learning rate, rows of a batch, bonus 10, beta1 .01, beta2, Adam,
  temperature 1, and the steps, of which each stage takes half here. Ours: 8
  samples a problem, KL in the reward (k1), the base as reference in both
  stages, a fresh optimizer in stage II, norm clipped to 1.
  """
  shared = {
    "problems": problems, "samples": 8, "turns": turns, "kl": "k1",
    "beta1": 0.01,
  }
  more = {
    "best": "judge/reward_2", "fused": fused,
    "waves": 1 if fused else min(4, problems // 8),
    "microbatches": problems, "steps_per_call": 10 if fused else 1,
  }
  rate = {"learning_rate": learning_rate}
  common.add(config, "stage1", common.stage(
    shared | {"name": "score.stage_one", "beta2": beta2},
    rate, steps // 2, "init", {"reference": "init"}, **more,
  ))
  common.add(config, "stage2", common.stage(
    shared | {"name": "score.stage_two", "beta2": 0.01, "bonus": 10.0},
    rate, steps - steps // 2, "stage1/last", {"reference": "init"}, **more,
  ))
  config.run.save_every = 50 if not fused else 5


QUICK = {"name": "word_problems", "count": 64}


def quick(config: ConfigDict, keep: tuple[str, ...]) -> ConfigDict:
  """Two steps of few problems; nothing of the config is loaded from the hub.

  Generated word problems and a tiny random model replace a data set and a model
  of the hub, but for those that `keep` names: "task", "model". Those of a disk
  stay.
  """
  task, path = config.task, config.model.get("path", "")
  own_model = "model" in keep or common.is_file(path)
  if "task" in keep or common.is_file(task.get("source", "")):
    _shorten(config)
  else:
    config.task = ConfigDict(QUICK)
    config.evaluate.task = ConfigDict({"seed": 1})
    turns = (64, 64) if own_model else (40, 40)
    config.evaluate.turns = turns
    for name in config.stages:
      config.stage[name].method.turns = turns
  if not own_model:
    config.tokenizer.update({"size": 300, "path": ""})
    config.model = ConfigDict({
      "layers": 1, "kv_heads": 1, "rope_base": 500.0, "dtype": "float32",
      "scan": False, "remat": "none", "residual": "whole", "attention": "auto",
    })
    for part in (config.task, config.evaluate.task):
      if "prompt_length" in part:
        part.prompt_length = 0  # Its tokens are short, and so many.
    for name in config.stages:
      config.stage[name].fused = False
  config.evaluate.batch = 64
  return common.finish(config, "quick")


def _shorten(config: ConfigDict) -> None:
  """Few rows of the data set, and few samples of each."""
  if not config.task.get("limit", 0):
    config.task.limit = QUICK["count"]
  for name in config.stages:
    method = config.stage[name].method
    if "samples" in method:
      method.samples = min(method.samples, 4)


def finish(config: ConfigDict, argument: str) -> ConfigDict:
  """Applies a config's argument; ValueError for another one than `common`'s."""
  keep = common.quick_of(argument)
  return config if keep is None else quick(config, keep)
