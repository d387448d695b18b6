"""Checks of a config before anything is loaded: sources, steps, metrics.

`check_config` needs only the config, neither data nor weights; the others need
the shapes of an iteration too. An error that shows up later costs hours.
"""

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sitrain.evaluate.run import evaluate, make_player
from sitrain.methods.checks import check_turns
from sitrain.models import attention
from sitrain.models.blocks import RopeScaling, rotary_size
from sitrain.models.decoder import Decoder
from sitrain.models.huggingface import families, tokenizer
from sitrain.rollout import by_turn
from sitrain.runtime import (
  adapters,
  batches,
  environments,
  fields,
  optimizer,
  origins,
  stopping,
  watch,
)
from sitrain.runtime.host import HostOnly, check_host
from sitrain.runtime.options import (
  ConfigError,
  accepted,
  call,
  check_options,
  check_type,
  checked,
  closest,
  find,
  naming,
)
from sitrain.runtime.start import Run, new_state
from sitrain.runtime.task import options_of as task_options
from sitrain.tasks.rows import problem_shape
from sitrain.types import Episodes, Stage, Task

CHOICES = {
  "dtype": ("float32", "bfloat16"), "remat": ("none", "full", "dots", "auto"),
  "residual": ("whole", "split"), "attention": attention.KINDS,
  "activation": ("silu", "gelu_tanh"),
}


def check_config(config: dict, *, trains: bool = True) -> None:
  """Raises ConfigError for errors that show in the config alone.

  A config that only samples a model (`trains` is False) needs no stages.
  """
  fields.check(config)
  check_model(config["model"])
  for name, given in config.get("roles", {}).items():
    fields.check_role(name, given)
  _check_tokenizer(config.get("tokenizer", {}))
  for part in ("", "evaluate"):
    field = f"{part}.task" if part else "task"
    options, _ = environments.options_of_task(
      task_options(config, part), field
    )
    maker = find("tasks", options.pop("name", ""), f"{field}.name")
    checked(maker, field, options)
  _check_evaluation_options(config["evaluate"])
  saved: list[str] = []
  if trains and not config["stages"]:
    raise ConfigError(
      "config.stages is empty: name at least one stage, or sample the model as "
      "it is with sitrain sample"
    )
  for i, name in enumerate(config["stages"]):
    if name not in config["stage"]:
      words = tuple(re.findall(r"\w+", name))  # A shell takes quotes away.
      fix = f"give a list, as --config.stages=\"{words}\""
      raise ConfigError(
        f"config.stages names {name!r}, which is no config.stage: "
        + (fix if len(words) > 1 else closest(name, config["stage"]))
      )
    fields.check_word("config.stages", name)
    if name in config["stages"][:i]:
      raise ConfigError(f"config.stages names {name!r} twice: leave one out")
    options = check_stage(f"stage.{name}", config["stage"][name], saved)
    saved += [] if options["writes"] else [name]


def _check_tokenizer(given: dict) -> None:
  options, known = dict(given), {"path", "size", *accepted(tokenizer.load)}
  if unknown := [name for name in given if name not in known]:
    raise ConfigError(
      f"config.tokenizer.{unknown[0]} is not an option:"
      f" {closest(unknown[0], known)}"
    )
  for name, kind in (("path", str), ("size", int)):
    check_type(f"tokenizer.{name}", options.pop(name, kind()), kind)
  checked(tokenizer.load, "tokenizer", options)
  least = tokenizer.LEAST
  if 0 < given.get("size", 0) < least:
    raise ConfigError(
      f"config.tokenizer.size={given['size']} has no room for all bytes and the"
      f" end token: set {least} or more"
    )


def check_stage(field: str, given: dict, saved: Sequence[str]) -> dict:
  """The options of a stage with the defaults, checked without the task.

  `saved` are the earlier stages that have checkpoints.
  """
  options = fields.STAGE | fields.check_stage(field, given)
  origins.check_sources(field, options, saved)
  check_steps(field, options)
  check_host(field, options)
  until_from(field, options)
  method = dict(options["method"])
  maker_name = method.pop("name", "")
  check_type(f"{field}.method.name", maker_name, str)
  checked(find("methods", maker_name, f"{field}.method.name"),
          f"{field}.method", method)
  optimizer_from(field, options)
  return options


def until_from(field: str, options: dict) -> Callable:
  """The function that ends the stage early; ConfigError if it is unknown."""
  until = dict(options["until"])
  name = until.pop("name", "")
  try:
    known = stopping.options(name)
    check_options(f"{field}.until", until, known)
    return stopping.make(name, **until)
  except ConfigError:
    raise
  except (TypeError, ValueError) as error:
    joint = "." if str(error).startswith("name=") else ": "
    raise ConfigError(f"config.{field}.until{joint}{error}") from error


def optimizer_from(field: str, options: dict) -> Any:
  """The optimizer of a stage; a stage that writes has none."""
  if options["writes"]:
    return optax.set_to_zero()
  updates = options["steps"] * options["minibatches"] * options["epochs"]
  return call(
    optimizer.make, f"{field}.optimizer",
    {"steps": updates} | options["optimizer"],
  )


def check_model(given: dict) -> None:
  """Checks names, types and sizes of config.model."""
  path = given.get("path", "")
  known = {n: Decoder.__dataclass_fields__[n] for n in model_fields(path)}
  for name, value in given.items():
    if name in ("path", "lora"):
      check_type(f"model.{name}", value, str if name == "path" else dict)
    elif name not in known:
      decided = path and name in model_fields("")
      raise ConfigError(f"config.model.{name} is " + (
        f"decided by the checkpoint of config.model.path={path!r}: leave it out"
        if decided else f"not an option: {closest(name, known)}"
      ))
    elif name in CHOICES and value not in CHOICES[name]:
      raise ConfigError(
        f"config.model.{name}={value!r}: {closest(str(value), CHOICES[name])}"
      )
    elif known[name].type is RopeScaling:
      check_type(f"model.{name}", value, dict)
      for one in value:
        if one not in RopeScaling._fields:
          raise ConfigError(
            f"config.model.{name}.{one}: {closest(one, RopeScaling._fields)}"
          )
    else:
      check_type(f"model.{name}", value, known[name].type)
  fields.check_ranges({"model": given})
  adapters.settings_of(given)
  if path:
    return
  # The vocabulary is the tokenizer's.
  sized = [n for n, f in known.items() if f.default is dataclasses.MISSING]
  for name in sized:
    if name not in given and name != "vocabulary":
      raise ConfigError(
        f"config.model.{name} is missing: set it, or config.model.path"
      )
  heads, groups = given["heads"], given["kv_heads"]
  if heads % groups:
    fitting = [str(n) for n in range(1, heads + 1) if heads % n == 0]
    raise ConfigError(
      f"config.model.kv_heads={groups} does not divide "
      f"config.model.heads={heads}: set it to {' or '.join(fitting)}"
    )
  if given["head_size"] % 2:
    raise ConfigError(
      f"config.model.head_size={given['head_size']}: rotary positions need an "
      "even number"
    )
  try:
    rotary_size(given["head_size"], given.get("rope_share", 1.0))
  except ValueError as error:
    raise ConfigError(f"config.model.{error}") from error
  experts, taken = (
    given.get(n, known[n].default) for n in ("experts", "experts_per_token")
  )
  if experts and taken > experts:
    raise ConfigError(
      f"config.model.experts_per_token={taken} is more than "
      f"config.model.experts={experts}: set it to {experts} or less"
    )


def model_fields(path: str) -> list[str]:
  """The options of config.model beside path and lora."""
  names = families.EXECUTION if path else Decoder.__dataclass_fields__
  own = "parent", "name", "fork", "wide", "pad_token"
  return [n for n in names if n not in own]


def evaluation_options() -> dict[str, inspect.Parameter]:
  """The options of config.evaluate, as parameters of their functions."""
  player, own = inspect.signature(make_player).parameters, accepted(evaluate)
  more = {"turns": player["turns"], "resamples": player["resamples"]}
  known = {n: one for n, one in own.items() if n != "on_progress"} | more
  watched = [(n, type(x), x) for n, x in watch.OPTIONS.items()]
  for name, kind, default in (("seed", int, 0), ("task", dict, {}), *watched):
    known[name] = inspect.Parameter(
      name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
    )
  return known


def check_evaluation(config: dict, task: Task) -> None:
  """Checks config.evaluate, before a stage is trained."""
  _check_evaluation_options(config["evaluate"])
  turns = tuple(config["evaluate"]["turns"])
  if len(turns) < 2:
    raise ConfigError(
      f"config.evaluate.turns={turns}: an evaluation needs 2 or more, as it"
      " compares attempts, whatever is trained: give the token limit of each"
    )
  try:
    check_turns(task, turns)
  except ValueError as error:  # It begins with the turns.
    raise ConfigError(f"config.evaluate.{error}") from error


def _check_evaluation_options(options: dict) -> None:
  known = evaluation_options()
  for name, value in options.items():
    if name not in known:
      raise ConfigError(
        f"config.evaluate.{name} is not an option: {closest(name, known)}"
      )
    check_type(f"evaluate.{name}", value, known[name].annotation)
  for name in ("turns", "temperature", "seed"):
    if name not in options:
      raise ConfigError(f"config.evaluate.{name} is missing: set it")
  fields.check_ranges({"evaluate": options})
  batch, resamples = (
    options.get(n, known[n].default) for n in ("batch", "resamples")
  )
  if batch < resamples:
    raise ConfigError(
      f"config.evaluate.batch={batch} rows do not hold the {resamples} first "
      f"attempts of one problem: set it to {resamples} or more, or lower "
      "config.evaluate.resamples"
    )


def check_steps(field: str, options: dict) -> None:
  """Checks that a stage's steps are whole calls."""
  steps, per_call = options["steps"], options["steps_per_call"]
  if steps % per_call:
    raise ConfigError(
      f"config.{field}.steps={steps} does not divide by "
      f"steps_per_call={per_call}: use {math.ceil(steps / per_call) * per_call}"
    )


def count_rows(field: str, run: Run, stage: Stage) -> batches.Counts:
  """The sizes of an iteration of a stage; ConfigError if a verb fails."""
  with naming(field, ".method"):
    key = jax.random.key(0)
    state = jax.eval_shape(lambda key: new_state(run, stage, key), key)
    return batches.count(stage.method, state, learns=not stage.writes)


def check_metrics(
  field: str, options: dict, stage: Stage, counts: batches.Counts,
  evaluate: dict,
) -> None:
  """Raises ConfigError if `best` or `until` names an unknown metric.

  `evaluate` is config.evaluate, by which a stage may measure while it trains.
  """
  known = list(counts.metrics)
  if stage.rounds > 1:
    known += ["generate/rounds", "generate/wanted"]
  named = {"best": stage.best, "until.metric": options["until"].get("metric")}
  every = evaluate.get("every", 0)
  known += watch.names(evaluate)
  for name, metric in named.items():
    own = str(metric).startswith(stopping.EVAL)
    if own and not 0 < every <= stage.steps and not stage.writes:
      raise ConfigError(
        f"config.{field}.{name}={metric!r} is measured by evaluations alone,"
        f" and config.evaluate.every={every} makes none in {stage.steps} steps:"
        f" set it to a number from 1 to {stage.steps}"
      )
    if metric and metric not in known and not stage.writes:
      raise ConfigError(
        f"config.{field}.{name}={metric!r} is no metric of this stage: "
        + closest(metric, known)
      )


def check_environment(field: str, stage: Stage, turns: Sequence[int]) -> None:
  """Raises ConfigError where a stage cannot ask the environment of its task."""
  task = stage.task
  if not by_turn.on_host(task.reply) or hasattr(
    stage.method.generate, "by_turn"
  ):
    return
  if len(turns) < 2:
    raise ConfigError(
      f"config.{field}.method.turns={tuple(turns)}: config.task.environment "
      "answers between turns: give two or more, or set config."
      f"{field}.task.environment to ''"
    )
  raise ConfigError(
    f"config.{field}.method.name: its rows are not played turn by turn, and "
    "config.task.environment answers on the host: take a method such as grpo "
    f"or rloo with offline=0, or set config.{field}.task.environment to ''"
  )


def check_fused(field: str, run: Run, stage: Stage) -> None:
  """Raises ConfigError if the judge of a fused stage runs on the host."""
  state = jax.eval_shape(
    lambda key: new_state(run, stage, key), jax.random.key(0)
  )
  row = jnp.zeros((1, 8), jnp.int32)
  rows = Episodes(row, row, row * 0.0, row, row[0, :1], row[0, :1])
  one = problem_shape(stage.task)
  try:
    jax.eval_shape(stage.method.judge, jax.random.key(0), state, one, rows)
  except HostOnly as error:
    raise ConfigError(f"config.{field}.fused=True: {error}") from error
