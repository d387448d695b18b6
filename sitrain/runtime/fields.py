"""The fields of a config: their names, types and ranges.

Options of methods, tasks and optimizers are declared by the functions that take
them. Rules for all of them (a rate is not negative) are here.
"""

import math
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from sitrain.runtime.options import ConfigError, check_type, closest

TOP = {
  "seed": int, "task": dict, "model": dict, "mesh": dict, "stages": tuple,
  "stage": dict, "evaluate": dict, "run": dict, "roles": dict,
  "tokenizer": dict,
}
RUN = {
  "save_every": int, "keep": int, "max_sampler_gap": float,
  "compile_cache": bool, "profile_steps": tuple, "wandb": str, "trackio": str,
  "mlflow": str, "samples_every": int, "samples": int,
}
# Fields of config.run that may be left out, with their defaults.
RUN_DEFAULTS = {"trackio": "", "mlflow": "", "samples_every": 0, "samples": 4}
MESH = {"data": int, "fsdp": int, "tensor": int}
STAGE = {
  "method": {}, "optimizer": {}, "steps": 0, "steps_per_call": 1,
  "until": {"name": "never"}, "start": "init", "held": {},
  "trained": ("policy",), "restart": True, "fused": True, "delay": 0,
  "rounds": 1, "best": "", "waves": 1, "minibatches": 1, "epochs": 1,
  "microbatches": 1, "buckets": 1, "task": {}, "table": {}, "writes": False,
}
ROLE = {"start": "policy", "head": "", "path": ""}
# What a role starts from, if no path is given, and what it ends in.
ROLE_CHOICES = {"start": ("policy", "init"), "head": ("", "scalar")}


class Range(NamedTuple):
  """The allowed range of a number: from `least` to `most`."""

  least: float
  most: float = math.inf
  above: bool = False  # excludes `least` itself
  below: bool = False  # excludes `most` itself


# Field -> its range; for a tuple, of each of its numbers. `*` is any word.
RANGES = {
  "seed": Range(0, 2**32 - 1),
  "model.(layers|width|heads|kv_heads|head_size|mlp_size|vocabulary|window)":
    Range(1),
  "model.(rope_base|local_rope_base|norm_eps)": Range(0, above=True),
  "model.(attention_cap|logit_cap|attention_scalar)": Range(0),
  "model.rope_share": Range(0, 1, above=True),
  "model.experts": Range(0),
  "model.experts_per_token": Range(1),
  "model.lora.rank": Range(0),
  "model.lora.alpha": Range(0),
  "mesh.*": Range(-1),
  "tokenizer.size": Range(0),
  "stage.*.(steps|steps_per_call|epochs|minibatches|rounds)": Range(1),
  "stage.*.(waves|microbatches|buckets)": Range(1),
  "stage.*.delay": Range(0, 1),
  "stage.*.method.(problems|turns)": Range(1),
  "stage.*.method.(samples|offline|slots|prompt_columns)": Range(0),
  "stage.*.method.temperature": Range(0, above=True),
  "stage.*.method.(beta|beta1|beta2|beta_verdict|weight)": Range(0),
  "stage.*.method.(anchor|explain)": Range(0),
  "stage.*.method.(clip|max_ratio)": Range(0, above=True),
  "stage.*.method.value_clip": Range(0),
  "stage.*.method.(discount|decay)": Range(0, 1),
  # A rate above 100 destroys any model, whatever the optimizer.
  "stage.*.optimizer.learning_rate": Range(0, 100),
  "stage.*.optimizer.(warmup|end_factor|weight_decay)": Range(0),
  "stage.*.optimizer.(steps|accumulate)": Range(1),
  "stage.*.optimizer.(b1|b2)": Range(0, 1, below=True),
  "stage.*.optimizer.(clip|eps)": Range(0, above=True),
  "stage.*.table.per_problem": Range(0),
  "stage.*.until.span": Range(1),
  "evaluate.(problems|batch|draws|turns)": Range(1),
  "evaluate.resamples": Range(2),
  "evaluate.every": Range(0),
  "evaluate.every_problems": Range(1),
  "evaluate.temperature": Range(0),
  "evaluate.seed": Range(0, 2**32 - 1),
  "(task|evaluate.task|stage.*.task).(seed|limit|prompt_length)": Range(0),
  "(task|evaluate.task|stage.*.task).(workers|count|memory)": Range(1),
  # A day: what waits knows no longer times, nor inf.
  "(task|evaluate.task|stage.*.task).(seconds|reply_seconds)": Range(
    0, 86400, above=True
  ),
  "run.(save_every|keep|samples)": Range(1),
  "run.samples_every": Range(0),
  "run.max_sampler_gap": Range(0, above=True),
  "run.profile_steps": Range(0),
}


# Fields that name a file, a folder, or a repository of the hub.
PATHS = (
  "model.path", "model.lora.path", "roles.*.path", "tokenizer.(path|template)",
  "(task|evaluate.task|stage.*.task).(source|shots)",
)
# Fields with several of them: "a.jsonl*0.7,b.jsonl*0.3".
LISTS = ("(task|evaluate.task|stage.*.task).(source|reward|device_reward)",)
# Fields that may name a checkpoint of another run: WORKDIR/STAGE/last.
CHECKPOINTS = ("stage.*.start", "stage.*.held.*")


def placed(config: dict, field: str = "") -> dict:
  """The config with absolute paths of its files and folders.

  `~` is expanded. Paths that do not exist are kept: they may name the hub.
  """
  found = {}
  for name, value in config.items():
    inner = f"{field}.{name}" if field else str(name)
    if isinstance(value, dict):
      value = placed(value, inner)
    elif isinstance(value, str):
      value = _placed(inner, value)
    found[name] = value
  return found


def _placed(field: str, value: str) -> str:
  is_list = any(matches(field, pattern) for pattern in LISTS)
  if is_list and not os.path.exists(os.path.expanduser(value)):
    return ",".join(_weighted(field, one.strip()) for one in value.split(","))
  return _one_placed(field, value)


def _weighted(field: str, value: str) -> str:
  """One of a list, which may end in "*" and a weight."""
  name, star, weight = value.rpartition("*")
  if star and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", weight):
    return f"{_one_placed(field, name)}*{weight}"
  return _one_placed(field, value)


def _one_placed(field: str, value: str) -> str:
  if value.startswith("file:"):
    path, colon, function = value.removeprefix("file:").partition(":")
    return f"file:{_absolute(path)}{colon}{function}"
  if any(matches(field, pattern) for pattern in PATHS):
    return _absolute(value)
  # "<stage>/last", with one slash, is a checkpoint of this run.
  if any(matches(field, p) for p in CHECKPOINTS) and value.count("/") > 1:
    folder, which = value.rsplit("/", 1)
    return f"{_absolute(folder)}/{which}"
  return value


def _absolute(value: str) -> str:
  if not value or "://" in value:
    return value
  path = os.path.expanduser(value)
  there = path != value or os.path.exists(path)
  return os.path.abspath(path) if there else value


def check(config: dict) -> None:
  """Raises ConfigError for an unknown name, a wrong type or a wrong range.

  A misspelt name would be ignored silently.
  """
  check_names(config)
  check_ranges(config)
  if 0 in config["mesh"].values():
    raise ConfigError(
      "config.mesh: an axis of 0 devices: give 1 or more, or -1 for the rest"
    )


def check_names(config: dict) -> None:
  """Raises ConfigError for names and types at the top, in run and in mesh."""
  _check("config", config, TOP)
  there = *config, "roles", "tokenizer"  # These two may be left out.
  missing = [name for name in TOP if name not in there]
  missing += [
    f"run.{name}" for name in RUN
    if name not in config.get("run", RUN) and name not in RUN_DEFAULTS
  ]
  if missing:
    raise ConfigError(
      f"config.{missing[0]} is missing: begin with configs/common.base_config()"
    )
  for group, known in (("run", RUN), ("mesh", MESH)):
    _check(f"config.{group}", config[group], known)
  window = config["run"].get("profile_steps", (0, 0))
  if len(window) != 2 or window[0] > window[1]:
    raise ConfigError(
      f"config.run.profile_steps={config['run']['profile_steps']}: give the "
      "first step to trace and the step after the last, as (10, 12)"
    )
  for group in ("stage", "roles"):
    for name, given in config.get(group, {}).items():
      check_type(f"{group}.{name}", given, dict)


def check_ranges(config: dict) -> None:
  """Raises ConfigError for a number outside its range in RANGES."""
  for field, value in _numbers(config):
    for pattern, allowed in RANGES.items():
      if matches(field, pattern):
        _check_range(field, value, allowed)


def check_word(field: str, name: str) -> None:
  """Raises ConfigError for a name that cannot be a folder's."""
  if not re.fullmatch(r"\w+", name):
    raise ConfigError(f"{field}: {name!r} is not a plain word")


def check_role(name: str, given: Any) -> dict:
  """The options of config.roles.`name`; ConfigError for what cannot be."""
  field = f"config.roles.{name}"
  if name in ("policy", "reference"):
    raise ConfigError(f"{field}: that role is always there; leave it out")
  check_word("config.roles", name)
  check_type(f"roles.{name}", given, dict)
  for key, value in given.items():
    if key not in ROLE:
      raise ConfigError(f"{field}.{key} is not an option: {closest(key, ROLE)}")
    check_type(f"roles.{name}.{key}", value, str)
  options = ROLE | given
  for key, choices in ROLE_CHOICES.items():
    if options[key] not in choices:
      near = closest(options[key], [x for x in choices if x])
      raise ConfigError(
        f"{field}.{key}={options[key]!r}: {near}"
        + (", or leave it out" if "" in choices else "")
        + (f": a folder or hub id belongs into {field}.path"
           if key == "start" and "/" in options[key] else "")
      )
  return options


def check_stage(field: str, given: dict) -> dict:
  """The options of a stage; ConfigError for unknown names and wrong types."""
  for key in given:
    if key == "anchor":
      raise ConfigError(
        f"config.{field}.anchor is config.{field}.held.reference now"
      )
    if key not in STAGE:
      raise ConfigError(
        f"config.{field}.{key} is not an option: {closest(key, STAGE)}"
      )
    check_type(f"{field}.{key}", given[key], type(STAGE[key]))
  return given


def matches(field: str, pattern: str) -> bool:
  """Whether a dotted name matches a pattern of RANGES or PATHS."""
  words = re.escape(".").join(pattern.replace("*", r"\w+").split("."))
  return re.fullmatch(words, field) is not None


def _check(field: str, given: dict, known: dict[str, type]) -> None:
  for name, value in given.items():
    if name not in known:
      raise ConfigError(
        f"{field}.{name} is not an option: {closest(name, known)}"
      )
    inner = f"{field}.{name}".removeprefix("config.")
    check_type(inner, value, known[name])


def _numbers(tree: dict, field: str = "") -> Iterator[tuple[str, Any]]:
  """(dotted name, value) of all numbers and tuples."""
  for name, value in tree.items():
    inner = f"{field}.{name}" if field else str(name)
    if isinstance(value, dict):
      yield from _numbers(value, inner)
    elif isinstance(value, (int, float, tuple, list)):
      yield inner, value


def _check_range(field: str, value: Any, allowed: Range) -> None:
  each = value if isinstance(value, (tuple, list)) else (value,)
  for one in each:
    if isinstance(one, bool) or not isinstance(one, (int, float)):
      continue  # A wrong type is reported elsewhere.
    low = one > allowed.least if allowed.above else one >= allowed.least
    high = one < allowed.most if allowed.below else one <= allowed.most
    if not (low and high):
      raise ConfigError(f"config.{field}={value}: {_range_text(allowed)}")


def _range_text(allowed: Range) -> str:
  """The range in words."""
  least, most = f"{allowed.least:g}", f"{allowed.most:.12g}"
  if math.isinf(allowed.most) and allowed.above:
    return f"set a number above {least}"
  if math.isinf(allowed.most):
    return f"set {least} or more"
  if allowed.below:
    return f"set a number from {least} to below {most}"
  return f"set a number from {least} to {most}"
