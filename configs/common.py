"""Functions and defaults of the configs in this folder."""

import os
from collections.abc import Iterable

from ml_collections import ConfigDict

TURNS = (5, 5)  # tokens a turn: four rooms and a terminal


def base_config() -> ConfigDict:
  """A run without stages: a small model on the hinted corridor maze."""
  config = ConfigDict()
  config.seed = 0
  config.task = ConfigDict({"name": "maze", "hinted": 0.5})
  config.model = ConfigDict({
    "layers": 2, "width": 64, "heads": 4, "kv_heads": 4, "head_size": 16,
    "mlp_size": 128, "rope_base": 100.0, "dtype": "float32", "scan": False,
    "remat": "none", "residual": "whole", "attention": "auto",
  })
  config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
  config.stages = ()
  config.stage = ConfigDict()
  config.evaluate = ConfigDict({
    "turns": TURNS, "problems": 2048, "temperature": 1.0, "seed": 7,
    "every": 0,  # steps between evaluations while a stage trains; 0: none
    "every_problems": 512, "every_sampled": False, "every_behaviours": False,
  })
  config.run = ConfigDict({
    "save_every": 4,  # fused calls between checkpoints
    "keep": 2,  # last checkpoints to keep, besides the best
    "max_sampler_gap": 0.1,  # nat between sampler and trainer; above: stop
    "compile_cache": True,
    "profile_steps": (0, 0),  # the steps of each stage to trace
    "wandb": "",  # a project's name, and so for the next two
    "trackio": "",
    "mlflow": "",
    "samples_every": 0,  # steps between samples.jsonl's dialogues; 0: none
    "samples": 4,  # how many of them at a time
  })
  return config


def stage(
  method: dict, optimizer: dict, steps: int, start: str, held: dict, **more
) -> ConfigDict:
  """One stage; `more` overrides these defaults."""
  return ConfigDict({
    "method": method, "optimizer": {"name": "adamw"} | optimizer,
    "steps": steps, "steps_per_call": 20, "until": {"name": "never"},
    "start": start, "held": held, "trained": ("policy",), "restart": True,
    "fused": True, "delay": 0, "rounds": 1, "best": "", "waves": 1,
    "minibatches": 1, "epochs": 1, "microbatches": 1, "buckets": 1,
    "task": {},
  } | more)


def add(config: ConfigDict, name: str, stage: ConfigDict) -> None:
  """Appends a stage to a run."""
  config.stages += (name,)
  config.stage[name] = stage


def add_base_model(config: ConfigDict) -> None:
  """The base model: imitation of the task's corpus, from random weights."""
  method = {"name": "imitation", "problems": 256, "turns": TURNS}
  optimizer = {
    "learning_rate": 4e-3, "schedule": "cosine", "warmup": 50, "b2": 0.98
  }
  add(config, "base", stage(
    method, optimizer, 300, "init", {}, steps_per_call=50
  ))


# Tuned on seeds 0-4 of the hinted maze.
RL = {
  "problems": 64, "samples": 8, "turns": TURNS, "baseline": "same_outcome",
  "share_prompts": True,
}
RATE = {"learning_rate": 1e-3}
BASE = {"reference": "base/last"}  # the reference of stages after the base
# 64 of 512 rows at a time, so that activations stay in the caches of a CPU.
PARTS = {"microbatches": 8}
CONVERGED = {
  "name": "plateau", "metric": "judge/reward_2", "span": 20, "above": 0.93,
  "tolerance": 0.01,
}


def reinforce(name: str, steps: int = 500, **options) -> ConfigDict:
  """A stage of RL from the base, at the samples of SCoRe's two stages."""
  method = RL | {"name": name} | options
  best = "judge/reward_1" if name == "single_turn" else "judge/reward_2"
  return stage(
    method, RATE, steps, "base/last", BASE, best=best, **PARTS
  )


def add_policy_gradient(
  config: ConfigDict, name: str, held: dict = BASE, rounds: int = 1, *,
  share_prompts: bool = True, **options
) -> None:
  """RL of the first attempt by a method of that name: 64 problems x 8 samples.

  share_prompts: False for a method without that option. Four gradient steps a
  round, so that ratios leave 1: it is in what they do then that the methods
  differ most.
  """
  method = {
    "name": name, "problems": 64, "samples": 8, "turns": TURNS[:1],
  } | ({"share_prompts": True} if share_prompts else {}) | options
  add(config, name, stage(
    method, {"learning_rate": 5e-4}, 100, "base/last", held,
    best="judge/reward_1", minibatches=4, microbatches=2, rounds=rounds,
  ))


def add_preference(
  config: ConfigDict, name: str, held: dict = BASE, **options
) -> None:
  """Rounds of 256 problems x 8 samples of a first attempt, in 8 steps each."""
  method = {
    "name": name, "problems": 256, "samples": 8, "turns": TURNS[:1]
  } | options
  add(config, name, stage(
    method, {"learning_rate": 5e-4}, 40, "base/last", held, steps_per_call=5,
    best="judge/reward_1", waves=4, minibatches=8, microbatches=2,
  ))


def add_stage_one(config: ConfigDict) -> None:
  """SCoRe's stage I on top of the base, until it has converged."""
  one = RL | {"name": "score.stage_one", "beta1": 0.1, "beta2": 1.0}
  add(config, "stage1", stage(
    one, RATE, 360, "base/last", BASE, until=CONVERGED,
    best="judge/reward_2", **PARTS,
  ))


def add_score(config: ConfigDict) -> None:
  """SCoRe on top of the base: stage I until it has converged, stage II."""
  add_stage_one(config)
  two = RL | {
    "name": "score.stage_two", "bonus": 2.0, "beta1": 0.1, "beta2": 0.05
  }
  add(config, "stage2", stage(
    two, {"learning_rate": 5e-4}, 140, "stage1/last", BASE,
    best="judge/reward_2", **PARTS,
  ))


def add_imitation(
  config: ConfigDict, name: str, rounds: int, **options
) -> None:
  """Rounds of sampling and imitation: 2,048 problems of 8 samples each."""
  method = {
    "name": name, "problems": 2048, "samples": 8, "turns": TURNS
  } | options
  minibatches, epochs = 32, 2
  optimizer = {"learning_rate": 5e-4}
  if name in ("star", "rest_em"):
    # Each round restarts the optimizer and its schedule.
    optimizer["steps"] = minibatches * epochs
  add(config, name, stage(
    method, optimizer, rounds, "base/last", BASE, steps_per_call=1, waves=16,
    minibatches=minibatches, epochs=epochs, **PARTS,
  ))


def add_tagged(config: ConfigDict, name: str) -> None:
  """A base on strings asked with `<ok>`, and two rounds of a method."""
  turns = (7, 7)  # six letters and the end, twice
  config.task = ConfigDict({"name": "strings", "tag": "<ok>"})
  config.evaluate.turns = turns
  add_base_model(config)
  config.stage.base.method.turns = turns
  add_imitation(
    config, name, rounds=2, samples=4, turns=turns[:1], start="previous"
  )


def quick_of(argument: str) -> tuple[str, ...] | None:
  """What "quick,task,model" keeps, "quick" alone nothing; None for "".

  Raises ValueError for other words.
  """
  word, *keep = argument.split(",")
  if word not in ("", "quick") or set(keep) - {"task", "model"}:
    raise ValueError(
      f"config argument {argument!r}: it is empty, or 'quick', or 'quick' with"
      " what it keeps as it is, such as 'quick,task,model'"
    )
  return tuple(keep) if word else None


def kind_of(
  argument: str, kinds: Iterable[str], default: str
) -> tuple[str, str]:
  """(one of `kinds`, the rest of the argument) of "KIND", "KIND,REST", "REST".

  Raises ValueError for a word that is no kind and no start of a rest.
  """
  kind, _, rest = argument.partition(",")
  if kind in kinds:
    return kind, rest
  if kind not in ("", "quick"):
    words = ", ".join(filter(None, kinds))
    raise ValueError(
      f"config argument {argument!r}: {kind!r} is none of {words} and 'quick'"
    )
  return default, argument


def is_file(path: str) -> bool:
  """Whether a path is of a disk or a bucket, and not a name of the hub."""
  return "://" in path or os.path.exists(os.path.expanduser(path))


def finish(config: ConfigDict, argument: str) -> ConfigDict:
  """Applies a config's argument: "" or "quick", two steps of a tiny model."""
  if quick_of(argument) is not None:
    _shrink(config)
  return config


def _shrink(config: ConfigDict) -> None:
  if not config.model.get("path", ""):
    config.model.update({
      "width": 16, "heads": 2, "kv_heads": 1, "head_size": 8, "mlp_size": 16
    })
  config.evaluate.problems = config.evaluate.every_problems = 64
  config.run.save_every = 1
  for name in config.stages:
    stage = config.stage[name]
    stage.steps, stage.steps_per_call = 2, 1
    stage.method.problems = 8
    stage.waves, stage.minibatches = 1, min(stage.minibatches, 2)
    # Of a user's own model as few rows at a time as it has to be.
    stage.microbatches = 8 if config.model.get("path", "") else 1
    if "warmup" in stage.optimizer:
      stage.optimizer.warmup = 1
